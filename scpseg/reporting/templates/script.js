"use strict";
// Tables sort, filter, hide columns and copy themselves; what was chosen is in the address. Without script all is shown.
(() => {
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const texts = row => [...row.cells].filter(cell => !cell.hidden).map(cell => cell.firstChild ? plain(cell) : "");
  const plain = cell => [...cell.childNodes].filter(node => node.nodeName !== "SUP").map(node => node.textContent).join("").trim();
  const TEX = {{ latex | tojson }};
  const tex = text => [...text].map(sign => TEX[sign] ?? (/[ -~À-ſ]/.test(sign) ? sign : "?")).join("");
  const md = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/[\\`*_[\]|~]/g, "\\$&");
  const csv = text => {
    const safe = /^(?:[=@\t\r]|[+\-](?![\d.]+( ± [\d.]+)?$))/.test(text) ? "'" + text : text;
    return /[",\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const formats = {
    LaTeX: (rows, left) => ["\\begin{tabular}{" + left.map(l => l ? "l" : "r").join("") + "}", "\\toprule",
      rows[0].map(tex).join(" & ") + " \\\\", "\\midrule", ...rows.slice(1).map(row => row.map(tex).join(" & ") + " \\\\"),
      "\\bottomrule", "\\end{tabular}", ""].join("\n"),
    CSV: rows => rows.map(row => row.map(csv).join(",") + "\n").join(""),
    Markdown: (rows, left) => [rows[0], left.map(l => l ? ":--" : "--:"), ...rows.slice(1)]
      .map((row, n) => "| " + row.map(n === 1 ? String : md).join(" | ") + " |\n").join(""),
  };

  function keep(name, part, value) {
    const key = `${name}.${part}`;
    if (value) state.set(key, value); else state.delete(key);
    history.replaceState(null, "", state.size ? "#" + state : location.pathname + location.search);
  }
  function button(text, action, label) {
    const made = document.createElement("button");
    made.type = "button"; made.textContent = text; made.addEventListener("click", action);
    if (label) made.setAttribute("aria-label", label);
    return made;
  }
  async function copy(text, from) {
    const before = from.textContent;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    from.textContent = "copied"; setTimeout(() => { from.textContent = before; }, 1200);
  }

  function dress(box) {
    const name = box.id, table = box.querySelector("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const first = [...body.rows], title = table.caption.textContent;
    const toggled = new Set((state.get(`${name}.columns`) ?? "").split("~").filter(Boolean));  // away from the default
    const hidden = head => ("off" in head.dataset) !== toggled.has(head.dataset.key);

    function columns() {
      heads.forEach((head, n) => [head, ...first.map(row => row.cells[n])].forEach(cell => { cell.hidden = hidden(head); }));
    }
    function sort(key) {
      const down = key.startsWith("-"), n = heads.findIndex(head => head.dataset.key === key.replace(/^-/, ""));
      heads.forEach(head => head.removeAttribute("aria-sort"));
      if (n < 0) { body.append(...first); return; }
      heads[n].setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => row.cells[n].dataset.v;
      body.append(...first.toSorted((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);  // no figure: last
        const both = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return down ? -both : both;
      }));
    }
    function filter(text) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      first.forEach(row => { row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)); });
    }
    heads.forEach(head => {
      const made = button(head.textContent, () => {
        const now = state.get(`${name}.sort`), key = head.dataset.key;
        const next = now === "-" + key ? key : now === key ? "" : "-" + key;
        keep(name, "sort", next); sort(next);
      });
      head.replaceChildren(made);
    });
    const search = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter rows", value: state.get(`${name}.find`) ?? "" });
    search.setAttribute("aria-label", `Filter rows of ${title}`);
    search.addEventListener("input", () => { keep(name, "find", search.value); filter(search.value); });
    const picker = document.createElement("details"), set = document.createElement("fieldset");
    picker.append(Object.assign(document.createElement("summary"), { textContent: "columns" }), set);
    heads.slice(1).forEach(head => {
      const label = document.createElement("label"), box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !hidden(head) });
      box.addEventListener("change", () => {
        if (!toggled.delete(head.dataset.key)) toggled.add(head.dataset.key);
        keep(name, "columns", [...toggled].join("~")); columns();
      });
      label.append(box, " ", head.textContent); set.append(label);
    });
    const tools = document.createElement("div");
    tools.className = "tools";
    const label = Object.assign(document.createElement("span"), { className: "small", textContent: "copy as" });
    tools.append(...(first.length > 3 ? [search] : []), picker, label, ...Object.entries(formats).map(([kind, format]) => button(kind, event => {
      const shown = [table.tHead.rows[0], ...body.rows].filter(row => !row.hidden).map(texts);
      copy(format(shown, heads.filter(head => !head.hidden).map(head => head.classList.contains("l"))), event.currentTarget);
    }, `Copy ${title} as ${kind}`)));
    box.prepend(tools);
    columns(); sort(state.get(`${name}.sort`) ?? ""); filter(search.value);
  }

  document.documentElement.classList.add("js");
  document.querySelectorAll(".table").forEach(dress);
  document.addEventListener("click", event => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();  // an anchor would take the place of the state in the address
    show(link.hash.slice(1)); state.set("at", link.hash.slice(1)); history.replaceState(null, "", "#" + state);
  });
  function show(id) {
    const target = document.getElementById(id);
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    target?.scrollIntoView();
  }
  if (state.has("at")) show(state.get("at"));
  addEventListener("beforeprint", () => document.querySelectorAll("section > details").forEach(part => { part.open = true; }));
})();
