// Plates, part 2: the numbers of a picture as CSV (assets/explorer/15-export.js saves the picture).

function hand(name, blob) {
  const href = URL.createObjectURL(blob);
  const link = el("a", { href, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
}

/** A visitor's text for a spreadsheet: a leading = + - @ would be run as a formula. */
const inert = (cell) => (typeof cell === "string" && /^[=+\-@\t\r]/.test(cell) && Number.isNaN(Number(cell)) ? `'${cell}` : String(cell));

function handCsv(name, { head, rows }) {
  const quote = (cell) => (/[",\n\r]/.test(inert(cell)) ? `"${inert(cell).replaceAll('"', '""')}"` : inert(cell));
  const text = [head, ...rows].map((row) => row.map(quote).join(",")).join("\r\n");
  hand(`${name}.csv`, new Blob([`\ufeff${text}\r\n`], { type: "text/csv;charset=utf-8" }));
}
