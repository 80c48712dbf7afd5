// Draws the figures in the page's data: theme by the reader's system; front, accuracy and scale of the cost by the buttons.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();
  const choosers = "[data-view], [data-accuracy], [data-scale]";
  const chosen = { view: "0", accuracy: data.accuracy, scale: data.views[0].front[data.accuracy].layout.xaxis.type };

  // Figures come in the light colours; each of those has one dark counterpart.
  const themed = (node) => {
    if (typeof node === "string") return dark.matches && data.dark[node] || node;
    if (Array.isArray(node)) return node.map(themed);
    if (node !== null && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, themed(value)]));
    }
    return node;
  };

  // Names that fit into the columns of a narrow legend, which cuts none.
  const brief = { "mean of seeds, 95 %": "mean, 95 %", "trained for longer": "longer", "shorter training": "shorter" };

  const labelled = (figure) => ({
    ...figure,
    data: figure.data.map((trace) =>
      trace.customdata ? { ...trace, text: trace.customdata.map((trial) => data.hover[trial]) } : trace),
  });

  const draw = (id, figure) => {
    const place = document.getElementById(id);
    if (!place) return;
    drawn.set(id, figure);
    const { data: traces, layout } = labelled(themed(figure));
    const narrow = place.clientWidth < 520;
    if (id === "plot-front" && narrow) {
      layout.height = 600;
      layout.margin = { ...layout.margin, l: 48, r: 4 };
      layout.legend = { ...layout.legend, font: { size: 12 }, entrywidth: 72 };
      for (const trace of traces) trace.name = brief[trace.name] ?? trace.name;
    }
    Plotly.react(place, traces, { ...layout, autosize: true }, {
      responsive: true, displaylogo: false, displayModeBar: id === "plot-front" && !narrow ? "hover" : false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { filename: "nasdistill-front", scale: 2 },
    });
  };

  const drawFront = () => {
    const view = data.views[Number(chosen.view)];
    const figure = view.front[chosen.accuracy];
    const xaxis = { ...figure.layout.xaxis, ...view.axes[chosen.scale], anchor: figure.layout.xaxis.anchor };
    draw("plot-front", { ...figure, layout: { ...figure.layout, xaxis } });
    for (const button of document.querySelectorAll(choosers)) {
      const pressed = Object.entries(button.dataset).every(([key, value]) => chosen[key] === value);
      button.setAttribute("aria-pressed", String(pressed));
    }
  };

  for (const button of document.querySelectorAll(choosers)) {
    button.addEventListener("click", () => { Object.assign(chosen, button.dataset); drawFront(); });
  }

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      } catch {
        // Without access to the clipboard the command is at least marked.
        getSelection().selectAllChildren(code);
      }
    });
  }

  drawFront();
  draw("plot-hypervolume", data.hypervolume);

  // The small plots are drawn when they come near the screen: there may be dozens.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      draw(entry.target.id, data.parameters[Number(entry.target.id.split("-").pop())]);
    }
  }, { rootMargin: "600px" });
  data.parameters.forEach((_, index) => {
    const place = document.getElementById(`plot-parameter-${index}`);
    if (place) seen.observe(place);
  });

  dark.addEventListener("change", () => {
    for (const [id, figure] of [...drawn]) draw(id, figure);
  });
})();
