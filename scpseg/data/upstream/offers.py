"""Who offers the four benchmarks: addresses, files, checksums, pinned versions, sizes, and what a person must do.

No address here has been tried live: the facts were gathered offline, from public pages and programs of the field.
Sizes are in bytes; those of an offer with `estimated` are rough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

How = Literal["files", "archive", "mirror", "share", "members", "kaggle", "huggingface", "drive"]


@dataclass(frozen=True)
class File:
    """One file that an offer serves; `labels` names the only kind of labels that needs it, '' = every kind."""

    name: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    labels: str = ""


@dataclass(frozen=True)
class Offer:
    """One source of a benchmark.

    Attributes:
        name: as in section `upstream`.
        folder: its folder in the cache.
        how: which code fetches it: 'files' below an address, one 'archive', a 'mirror' that lists its archives, the
            file of a Seafile 'share', 'members' of the zip in such a share, or a client library.
        address: of the files' folder, the archive, the share; or a handle, a repository, a Drive folder.
        page: where a person reads about it.
        download: bytes to fetch, None where unknown.
        disk: most bytes in the cache while it is fetched (Kaggle's client unpacks), None where unknown.
        estimated: the two sizes are rough.
        files: what is fetched. A client brings whatever its data set holds; a file named here must be as it says.
        password: of the share, published by the benchmark's owners.
        pattern: the only paths to fetch, empty = all.
        notes: what a person must do, or know, first.
    """

    name: str
    folder: str
    how: How
    address: str
    page: str
    download: int | None
    disk: int | None
    estimated: bool = True
    files: tuple[File, ...] = ()
    password: str = ""
    pattern: str = ""
    notes: str = ""

    def wanted(self, labels: str) -> tuple[File, ...]:
        """The files that images and this kind of labels need."""
        return tuple(file for file in self.files if file.labels in ("", labels))


DEEPGLOBE_TERMS = (
    "By hand: read and accept the DeepGlobe rules (deepglobe.org); a Kaggle token (kaggle.com/settings/api), only if "
    "Kaggle asks for one."
)
INRIA_PARTS = tuple(
    File(f"aerialimagelabeling.7z.{number:03d}", size, sha256)
    for number, (size, sha256) in enumerate(
        (
            (4294967296, "17a7d95c78e484328fd8fe5d5afa2b505e04b8db8fceb617819f3c935d1f39ec"),
            (4294967296, "b505cb223964b157823e88fbd5b0bd041afcbf39427af3ca1ce981ff9f61aff4"),
            (4294967296, "752916faa67be6fc6693f8559531598fa2798dc01b7d197263e911718038252e"),
            (4294967296, "b3893e78f92572455fc2c811af560a558d2a57f9b92eff62fa41399b607a6f44"),
            (3777396691, "a92eb20fdc9911c5ffe3afc514490b8f1e1e5b22301a6fc55d3b4e1624d8033f"),
        ),
        1,
    )
)
INRIA_PAGE = "https://project.inria.fr/aerialimagelabeling"
POTSDAM_FILES = (
    File("2_Ortho_RGB.zip"),
    File("5_Labels_all_noBoundary.zip", labels="noBoundary"),
    File("5_Labels_all.zip", labels="bordered"),
)
POTSDAM_SHARE = "https://seafile.projekt.uni-hannover.de/f/429be50cc79d423ab6c4/"
POTSDAM_PAGE = "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/Default.aspx"
POTSDAM_WHOLE = File("Potsdam.zip", 13324219686)
POTSDAM_PASSWORD = "CjwcipT4-P8g"
"""Stands openly on POTSDAM_PAGE."""
POTSDAM_TERMS = "By hand: read the terms on the download page."

OFFERS: dict[str, tuple[Offer, ...]] = {
    "deepglobe": (
        Offer(
            name="kaggle",
            folder="kaggle",
            how="kaggle",
            address="balraj98/deepglobe-land-cover-classification-dataset/versions/2",
            page="https://www.kaggle.com/datasets/balraj98/deepglobe-land-cover-classification-dataset",
            download=2_800_000_000,
            disk=5_600_000_000,
            notes=DEEPGLOBE_TERMS,
        ),
        Offer(
            name="kaggle-geoap96",
            folder="kaggle-geoap96",
            how="kaggle",
            address="geoap96/deepglobe2018-landcover-segmentation-traindataset",
            page="https://www.kaggle.com/datasets/geoap96/deepglobe2018-landcover-segmentation-traindataset",
            download=1_900_000_000,
            disk=3_800_000_000,
            files=(File("data.zip", md5="f32684b0b2bf6f8d604cd359a399c061"),),
            notes=DEEPGLOBE_TERMS,
        ),
    ),
    "inria": (
        Offer(
            name="inria",
            folder="inria",
            how="files",
            address="https://files.inria.fr/aerialimagelabeling",
            page=INRIA_PAGE,
            download=20_957_265_875,
            disk=20_957_265_875,
            estimated=False,
            files=INRIA_PARTS,
            notes="Nothing to do by hand. Its certificate chain is said to be broken: if it is refused, "
            "upstream.unverified_hosts may name files.inria.fr; the checksums still hold.",
        ),
        Offer(
            name="huggingface",
            folder="huggingface",
            how="huggingface",
            address="blanchon/INRIA-Aerial-Image-Labeling",
            page="https://huggingface.co/datasets/blanchon/INRIA-Aerial-Image-Labeling",
            download=13_600_000_000,
            disk=13_600_000_000,
            pattern="data/train/**",
            notes="Nothing to do by hand. No revision is pinned, since none is known; the one that is taken is noted.",
        ),
        Offer(
            name="s3",
            folder="s3",
            how="files",
            address="https://public-remote-sensing-datasets.s3-eu-west-1.amazonaws.com/compressed",
            page=INRIA_PAGE,
            download=21_000_000_000,
            disk=21_000_000_000,
            files=(File("Inria-NEW2-AerialImageDataset.zip"),),
            notes="Nothing to do by hand. No checksum is known.",
        ),
        Offer(
            name="kaggle",
            folder="kaggle",
            how="kaggle",
            address="sagar100rathod/inria-aerial-image-labeling-dataset",
            page="https://www.kaggle.com/datasets/sagar100rathod/inria-aerial-image-labeling-dataset",
            download=21_000_000_000,
            disk=48_000_000_000,
            notes="By hand: a Kaggle token (kaggle.com/settings/api), only if Kaggle asks for one.",
        ),
    ),
    "potsdam": (
        Offer(
            name="isprs",
            folder="isprs",
            how="members",
            address=POTSDAM_SHARE,
            page=POTSDAM_PAGE,
            download=3_000_000_000,
            disk=3_000_000_000,
            files=POTSDAM_FILES,
            password=POTSDAM_PASSWORD,
            notes=POTSDAM_TERMS,
        ),
        Offer(
            name="isprs-whole",
            folder="isprs-whole",
            how="share",
            address=POTSDAM_SHARE,
            page=POTSDAM_PAGE,
            download=13_324_219_686,
            disk=13_324_219_686,
            estimated=False,
            files=(POTSDAM_WHOLE,),
            password=POTSDAM_PASSWORD,
            notes=POTSDAM_TERMS,
        ),
        Offer(
            name="drive",
            folder="drive",
            how="drive",
            address="1w3EJuyUGet6_qmLwGAWZ9vw5ogeG0zLz",
            page="https://drive.google.com/drive/folders/1w3EJuyUGet6_qmLwGAWZ9vw5ogeG0zLz",
            download=3_000_000_000,
            disk=3_000_000_000,
            files=POTSDAM_FILES,
            notes="By hand: read the ISPRS terms. Drive stops at a daily quota: try again the next day.",
        ),
    ),
    "blu": (),
}
ARCHIVES: dict[str, tuple[File, ...]] = {
    "deepglobe": (File("data.zip"),),
    "inria": INRIA_PARTS,
    "potsdam": POTSDAM_FILES,
    "blu": (File("BLU.zip"),),
}
"""What <address>/<benchmark>/ holds of a mirror that has no archives.json."""
MANUAL: dict[str, str] = {
    "deepglobe": "fetch the data set at kaggle.com/datasets/balraj98/deepglobe-land-cover-classification-dataset "
    "in a browser, or land-train.zip at competitions.codalab.org/competitions/18468 (login)",
    "inria": f"fetch the five parts that {INRIA_PAGE} links in a browser",
    "potsdam": f"fetch 2_Ortho_RGB.zip and the label archive, or Potsdam.zip, from {POTSDAM_SHARE} in a browser "
    f"(password {POTSDAM_PASSWORD}, shown on {POTSDAM_PAGE})",
    "blu": "fetch it at https://rslab.disi.unitn.it/dataset/BLU/ or "
    "https://pan.baidu.com/s/117F0c5eR56Y97cQDIXD1Sg?pwd=uf7c in a browser and ask its authors about terms",
}
"""How a person gets each benchmark; the end of a sentence that begins with 'by hand:'."""
