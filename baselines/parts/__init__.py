"""Parts that several rivals share; SCPSeg uses none of them, so an edit here reruns no stage of SCPSeg."""
