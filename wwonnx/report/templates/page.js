"use strict";
// The page is whole without this: it sorts and filters the tables, and draws a layer large when it is asked for.
(() => {
  const byId = (id) => document.getElementById(id);
  const models = JSON.parse(byId("data").textContent);
  const tables = [...document.querySelectorAll("table.layers")];
  const tools = byId("tools"), axes = byId("axes"), viewer = byId("viewer"), panels = byId("panels");
  const order = tables.map((table) => [...table.tBodies[0].rows].filter((row) => row.dataset.row !== undefined));

  const entry = (model, row) => models[model].rows[row];
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text; // never as markup: names come from the models' files
    return element;
  };
  const format = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return Array.isArray(value) ? value.join(" × ") : String(value);
    if (Number.isInteger(value)) return String(value);
    const size = Math.abs(value);
    return size >= 0.01 && size < 1e5 ? value.toFixed(3) : value.toExponential(2);
  };

  // Sorting and filtering, of all tables at once so that models stay side by side.
  function compare(key, down) {
    const sign = down ? -1 : 1;
    return (a, b) => {
      if (key === "place") return sign * (a.place - b.place);
      const x = a.entry.row[key], y = b.entry.row[key];
      const missing = (x === null || x === undefined) - (y === null || y === undefined);
      if (missing) return missing; // what has no value comes last, whichever way
      const difference = typeof x === "string"
        ? x.localeCompare(y, undefined, { numeric: true }) : (x ?? 0) - (y ?? 0);
      return sign * difference || a.place - b.place;
    };
  }

  function arrange() {
    const { text, type, flag, sort, down } = tools.elements;
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    tables.forEach((table, model) => {
      const rows = order[model].map((element, place) => ({ element, place, entry: entry(model, place) }));
      rows.sort(compare(sort.value, down.checked));
      for (const { element, entry: { id, row, flags } } of rows) {
        const hay = [id, row.name, row.longname, row.layer_type, row.reason, ...flags].join(" ").toLowerCase();
        const fits = words.every((word) => hay.includes(word)) && (!type.value || row.layer_type === type.value)
          && (!flag.value || (flag.value === "-" ? !flags.length : flags.includes(flag.value)));
        element.hidden = !fits;
        shown += fits;
        all += 1;
        table.tBodies[0].append(element);
      }
      for (const heading of table.tHead.rows[0].cells) {
        const own = heading.querySelector("button")?.dataset.sort === sort.value;
        if (own) heading.setAttribute("aria-sort", down.checked ? "descending" : "ascending");
        else heading.removeAttribute("aria-sort");
      }
    });
    tools.elements.count.textContent = shown === all ? `${all} layers` : `${shown} of ${all} layers`;
  }

  tools.addEventListener("input", arrange);
  tools.addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const { sort, down } = tools.elements;
      const again = sort.value === button.dataset.sort;
      if (![...sort.options].some((option) => option.value === button.dataset.sort)) {
        sort.append(new Option(button.textContent, button.dataset.sort));
      }
      sort.value = button.dataset.sort;
      down.checked = again ? !down.checked : false;
      arrange();
    });
  }
  arrange();

  // plotly.js lies packed in the page, and is unpacked when the first layer is opened.
  let library = null;
  function plotly() {
    library ??= (async () => {
      const packed = Uint8Array.from(atob(byId("plotly").textContent.trim()), (letter) => letter.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      const script = document.createElement("script");
      script.textContent = await new Response(stream).text();
      document.head.append(script);
      return window.Plotly;
    })();
    return library;
  }

  function edges({ low, high, density }) {
    const step = Math.log(high / low) / density.length;
    return Array.from({ length: density.length + 1 }, (_, index) => low * Math.exp(step * index));
  }

  // A histogram as a line of steps; bins without eigenvalues are gaps where the axis is logarithmic.
  function steps(x, density, logarithmic) {
    const xs = [], ys = [];
    density.forEach((value, bin) => {
      const height = value > 0 || !logarithmic ? value : null;
      xs.push(x[bin], x[bin + 1]);
      ys.push(height, height);
    });
    return { x: xs, y: ys };
  }

  function traces(picture, row, color, logarithmic) {
    const x = edges(picture), number = (value) => format(value);
    const widths = x.slice(1).map((end, bin) => end - x[bin]), middles = widths.map((width, bin) => x[bin] + width / 2);
    const xmin = row.xmin ?? Infinity;
    const found = [{
      type: "bar", name: "ESD", x: middles, width: widths, y: picture.density, hovertemplate: "λ %{x:.4g}<br>ρ %{y:.4g}",
      marker: { color: x.slice(1).map((end) => color(end > xmin * (1 + 1e-9) ? "tail" : "bulk")), line: { width: 0 } },
    }];
    const line = (name, xs, ys, shade, dash, width = 2) => found.push({
      type: "scatter", mode: "lines", name, x: xs, y: ys, line: { color: color(shade), dash, width },
      hovertemplate: "λ %{x:.4g}<br>ρ %{y:.4g}",
    });
    if (picture.shuffle) {
      const outline = steps(x, picture.shuffle, logarithmic);
      line("weights shuffled", outline.x, outline.y, "shuffle", "solid", 1.6);
    }
    if (picture.null) line("MP null, same variance", ...picture.null, "null", "dash");
    if (picture.bulk) line(`MP fit, σ ${number(row.sigma_mp)}`, ...picture.bulk, "law", "dot");
    if (picture.tail) line(`power law, α ${number(row.alpha)}`, ...picture.tail, "fit", "solid", 2.5);
    return found;
  }

  function layout(picture, row, color, logX, logY, narrow) {
    const positive = [...picture.density, ...(picture.tail ? picture.tail[1] : [])].filter((value) => value > 0);
    const top = Math.max(...picture.density), least = Math.min(...positive);
    const decades = (from, to) => ({ dtick: to - from > 1.6 ? 1 : "D2", minor: { ticks: "outside", ticklen: 4, showgrid: false } });
    const logarithmic = (from, to) => ({ type: "log", range: [from, to], ...decades(from, to) });
    const axis = (title, extra) => ({
      title: { text: title }, gridcolor: color("rule"), zerolinecolor: color("rule"), linecolor: color("rule"), exponentformat: "power", ...extra,
    });
    const shapes = row.xmin ? [{
      type: "line", x0: row.xmin, x1: row.xmin, yref: "paper", y0: 0, y1: 1, line: { color: color("ink"), width: 1.2, dash: "dot" },
    }] : [];
    // On a linear axis the bulk is what there is to see of a long tail.
    const high = picture.high * 1.05;
    return {
      paper_bgcolor: color("paper"), plot_bgcolor: color("paper"), bargap: 0, shapes, hovermode: "closest",
      font: { color: color("ink"), family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 13 },
      margin: { l: 62, r: 12, t: 34, b: 48 },
      legend: narrow ? { orientation: "h", y: -0.2 } : { x: 1, xanchor: "right", y: 1, bgcolor: color("paper"), bordercolor: color("rule"), borderwidth: 1 },
      xaxis: axis("eigenvalue λ", logX ? logarithmic(Math.log10(picture.low) - 0.05, Math.log10(high)) : { range: [0, high] }),
      yaxis: axis("density ρ(λ)", logY ? logarithmic(Math.log10(least) - 0.3, Math.log10(top) + 0.9) : { range: [0, top * 1.1] }),
    };
  }

  let current = null, shown = [];
  // The layer itself, and in every other model the one of the same name.
  function counterparts([model, row]) {
    const { row: { name, slice_id: slice } } = entry(model, row);
    const pairs = [];
    models.forEach((other, index) => {
      const place = index === model ? row : other.rows.findIndex((one) => one.row.name === name && one.row.slice_id === slice);
      if (place >= 0) pairs.push([index, place]);
    });
    return pairs;
  }

  const FIGURES = {
    alpha: "α", sigma: "± σ", alpha_low: "α from", alpha_high: "to", D: "D", xmin: "xmin", num_pl_spikes: "in the tail", alpha_weighted: "α̂", alpha_null: "α untrained",
    lambda_max: "λ max", stable_rank: "stable rank", num_evals: "eigenvalues", num_spikes: "spikes", num_traps: "traps", rand_p_value: "p (shuffles)",
  };

  async function open(place) {
    current = place;
    const own = entry(...place);
    byId("viewer-title").textContent = `Layer ${own.id}  ${own.row.name}`;
    shown = counterparts(place).map(([model, row]) => {
      const { row: values, picture, flags } = entry(model, row);
      const panel = make("section", "panel");
      if (models.length > 1) panel.append(make("h3", `s${model % 6}`, models[model].label));
      const list = make("dl", "figures");
      for (const [name, words] of Object.entries(FIGURES)) {
        if (values[name] === undefined || values[name] === null) continue;
        const pair = make("div");
        pair.append(make("dt", "", words), make("dd", "", format(values[name])));
        list.append(pair);
      }
      const said = [...flags, values.reason].filter(Boolean).join("; ");
      const plot = make("div", "plot waiting", picture ? "" : "There is no spectrum to draw.");
      panel.append(plot, list, make("p", "quiet", said));
      if (picture?.below) panel.append(make("p", "quiet", `Not shown: ${picture.below} eigenvalues below ${format(picture.low)}.`));
      return { panel, plot, picture, row: values };
    });
    panels.replaceChildren(...shown.map(({ panel }) => panel));
    numbers(counterparts(place));
    const visible = list();
    const index = visible.findIndex(([model, row]) => model === place[0] && row === place[1]);
    byId("before").disabled = index <= 0;
    byId("after").disabled = index < 0 || index >= visible.length - 1;
    if (!viewer.open) viewer.showModal();
    byId("viewer-title").focus({ preventScroll: true });
    await draw();
  }

  function numbers(pairs) {
    const names = [...new Set(pairs.flatMap(([model, row]) => Object.keys(entry(model, row).row)))];
    const rows = names.map((name) => {
      const line = make("tr"), heading = make("th", "", name);
      heading.scope = "row";
      line.append(heading, ...pairs.map(([model, row]) => make("td", "", format(entry(model, row).row[name]))));
      return line;
    });
    byId("numbers").replaceChildren(...rows);
  }

  async function draw() {
    const wanted = shown;
    let library;
    try {
      library = await plotly();
    } catch (error) {
      for (const { plot } of wanted) plot.textContent = `This browser can't unpack the plot (${error.name}); its numbers stand below.`;
      return;
    }
    if (wanted !== shown) return; // another layer was opened meanwhile
    const style = getComputedStyle(document.documentElement), color = (name) => style.getPropertyValue(`--${name}`).trim();
    const logX = axes.elements.x.checked, logY = axes.elements.y.checked;
    for (const { plot, picture, row } of wanted) {
      if (!picture) continue;
      plot.classList.remove("waiting");
      const place = layout(picture, row, color, logX, logY, plot.clientWidth < 560);
      await library.react(plot, traces(picture, row, color, logY), place, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
    }
    viewer.dataset.drawn = current.join(":");
  }

  // The layers in the order in which the table of the current one shows them.
  function list() {
    const model = current[0];
    return [...tables[model].tBodies[0].rows].filter((row) => !row.hidden && row.dataset.row !== undefined).map((row) => [model, Number(row.dataset.row)]);
  }
  function move(by) {
    const visible = list(), index = visible.findIndex(([, row]) => row === current[1]);
    const next = visible[index + by];
    if (index >= 0 && next) open(next);
  }
  const place = (element) => element.dataset.open.split(":").map(Number);
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    if (opener) return void open(place(opener));
    const row = event.target.closest("table.layers tbody tr[data-row]");
    if (row && !window.getSelection().toString()) open(place(row.querySelector("[data-open]")));
  });
  byId("before").addEventListener("click", () => move(-1));
  byId("after").addEventListener("click", () => move(1));
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.target.closest("input")) return;
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
  axes.addEventListener("input", draw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (viewer.open) draw(); });
})();
