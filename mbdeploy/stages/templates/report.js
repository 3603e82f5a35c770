"use strict";
// Sorts and filters tables, and hands a figure to Plotly when somebody wants to zoom. Nothing comes from outside.
const PAPER = 680; // CSS pixels that fit between the margins of A4 and Letter
let loading = null;
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
const FONT = { family: 'system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif', size: 12 };

function dress(layout) {
  const plain = { showgrid: true, zeroline: false, automargin: true };
  const dressed = { font: FONT, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "#8793a5", activecolor: "#3f83e0" },
    hoverlabel: { bgcolor: "#1a2230", bordercolor: "#1a2230", font: { color: "#fff" } }, ...layout };
  for (const axis of ["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d/.test(key))]) {
    dressed[axis] = { ...plain, ...dressed[axis] };
  }
  return dressed;
}

async function loadPlotly() {
  const text = atob(document.getElementById("plotly").textContent.trim());
  const packed = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place++) packed[place] = text.charCodeAt(place);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script); // runs at once; the policy of this page knows its digest
}

async function explore(button) {
  button.disabled = true;
  try {
    loading = loading || loadPlotly();
    await loading;
    const figure = document.getElementById(button.dataset.chart);
    const place = figure.querySelector(".chart");
    const chart = JSON.parse(document.getElementById("charts").textContent).find((one) => one.name === button.dataset.chart);
    place.style.height = `${place.clientHeight}px`;
    place.replaceChildren();
    await Plotly.newPlot(place, chart.data, dress(chart.layout), CONFIG);
    button.remove();
  } catch (error) {
    button.textContent = `not in this browser: ${error.message}`;
  }
}

for (const button of document.querySelectorAll("button.explore")) {
  button.hidden = false;
  button.addEventListener("click", () => explore(button));
}

addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) {
    one.dataset.was = one.open ? "open" : "";
    one.open = one.open || !one.closest("table.heat"); // opened cells are wider than paper
  }
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.relayout(plot, { width: PAPER }));
});
addEventListener("afterprint", () => {
  document.querySelectorAll("details").forEach((one) => { one.open = one.dataset.was === "open"; });
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
});

function readCell(row, column) {
  const text = row.cells[column].textContent.trim();
  if (text === "equal") return Infinity;
  const number = parseFloat(text.replace(/^[<>=]+ /, "").replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

function sortTable(table, column, button) {
  const body = table.tBodies[0];
  const head = button.closest("th");
  const down = head.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  const rows = [...body.rows].map((row) => [readCell(row, column), row]);
  rows.sort(([a], [b]) => (down ? order(b, a) : order(a, b)));
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sorts")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.title = "sort";
    button.addEventListener("click", () => sortTable(table, column, button));
    head.append(button);
  });
}
for (const field of document.querySelectorAll("input.filter")) {
  field.hidden = false;
  const place = document.getElementById(field.dataset.table);
  field.addEventListener("input", () => {
    const word = field.value.toLowerCase();
    for (const one of place.tBodies ? place.tBodies[0].rows : place.children) {
      one.hidden = !one.textContent.toLowerCase().includes(word);
    }
  });
}
