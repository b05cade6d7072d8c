// Moves the viewer as the controls beside it are moved, and says what the drawn bed amounts to.
(() => {
  const about = JSON.parse(document.getElementById("about").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const maps = about.maps;
  for (const name of ["score", "tissue", "unread"]) maps[name] = bytes(maps[name]);
  const byId = (id) => document.getElementById(id);
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
  const mm = maps.mpp / 1000;

  const start = (view) => {
    const doc = view.model.document;
    const plot = view.model;
    const named = (name) => plot.renderers.filter((renderer) => renderer.name === name);
    const both = ["tiles", "fine"].flatMap(named);
    const scales = both.map((renderer) => renderer.glyph.color_mapper);
    const bed = doc.get_model_by_name("bed");

    byId("opacity").addEventListener("input", (event) => {
      for (const renderer of both) renderer.glyph.global_alpha = { value: event.target.value / 100 };
      byId("opacity-now").textContent = `${event.target.value}\u00a0%`;
    });
    byId("palette").addEventListener("change", (event) => {
      for (const scale of scales) scale.palette = about.palettes[event.target.value];
      paintLegend();
    });
    byId("threshold").addEventListener("input", () => {
      for (const scale of scales) scale.low = 1 + about.steps * byId("threshold").value / 100;
      sayThreshold();
    });
    for (const box of document.querySelectorAll("[data-layer]")) {
      const show = () => {
        for (const renderer of named(box.dataset.layer)) renderer.visible = box.checked;
      };
      box.addEventListener("change", show);
      show();
    }

    const paintLegend = () => {
      const colours = about.palettes[byId("palette").value];
      byId("legend").style.background = `linear-gradient(to right, ${colours.filter((_, i) => i % 15 === 0).join(", ")})`;
    };

    const cellArea = (maps.cell * mm) ** 2;
    const sayThreshold = () => {
      const at = byId("threshold").value / 100, low = 1 + about.steps * at;
      let above = 0, all = 0;
      for (let i = 0; i < maps.score.length; i++) if (maps.score[i]) {
        all += maps.tissue[i];
        if (maps.score[i] >= low) above += maps.tissue[i];
      }
      byId("threshold-now").textContent = percent(at).replace(".0", "");
      byId("above").textContent = all
        ? `${(above / 255 * cellArea).toFixed(2)} mm² of tissue, ${percent(above / all)} of it`
        : "no tissue";
    };

    const ringsOf = () => wsiBed.usable(bed.data.xs.map((xs, i) => {
      const ys = bed.data.ys[i];
      return Array.from(xs, (x, j) => [x / mm, -ys[j] / mm]);
    }));
    const asWritten = JSON.stringify(ringsOf());
    const card = byId("bed-card"), asStated = card ? card.innerHTML : "";
    const sayBed = () => {
      const rings = ringsOf();
      byId("save").disabled = rings.length === 0;
      if (JSON.stringify(rings) === asWritten) {
        card.innerHTML = asStated;
        return;
      }
      const say = (figure, text) => {
        card.innerHTML = `<p class="figure" id="bed-cellularity">${figure}</p><p id="bed-says">${text}</p>`;
      };
      if (!rings.length) return say("–", "No bed is drawn. Choose Draw, and drag around it.");
      if (wsiBed.tangled(rings)) {
        byId("save").disabled = true;
        return say("–", "The outline crosses itself or another one. Move its corners apart.");
      }
      const got = wsiBed.measure(rings, maps);
      say(got.cellularity === null ? "–" : percent(got.cellularity),
        `mean cellularity of the bed as drawn here: ${got.area_mm2.toFixed(2)} mm², ` +
        `${got.longest_mm.toFixed(1)} × ${got.across_mm.toFixed(1)} mm` +
        (got.coverage < 1 ? `, ${percent(got.coverage)} of it read` : "") +
        ". Save it, and run <code>wsi heatmap</code> with <code>--bed</code>: then the figure has an interval and is kept.");
    };
    // Bokeh's tools change the lists in place, and say so by either signal.
    bed.change.connect(sayBed);
    bed.properties.data.change.connect(sayBed);

    byId("draw").addEventListener("click", () => {
      plot.toolbar.tools.find((tool) => tool.name === "draw").active = true;
    });
    byId("clear").addEventListener("click", () => {
      bed.data = { xs: [], ys: [] };
      sayBed();
    });
    byId("save").addEventListener("click", () => {
      const text = JSON.stringify(wsiBed.geojson(ringsOf(), about.slide), null, 1);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/geo+json" }));
      link.download = `${about.file}-bed.geojson`;
      link.click();
      URL.revokeObjectURL(link.href);
    });

    const pointer = byId("pointer");
    view.el.addEventListener("pointermove", (event) => {
      const frame = view.el.getBoundingClientRect();
      const x = view.frame.x_scale.invert(event.clientX - frame.left) / mm;
      const y = -view.frame.y_scale.invert(event.clientY - frame.top) / mm;
      const column = Math.floor((x - maps.x) / maps.cell), row = Math.floor((y - maps.y) / maps.cell);
      const inside = column >= 0 && row >= 0 && column < maps.columns && row < maps.rows;
      const score = inside ? maps.score[row * maps.columns + column] : 0;
      pointer.textContent = score
        ? `${percent((score - 1) / about.steps)} at ${(x * mm).toFixed(2)}, ${(y * mm).toFixed(2)} mm`
        : "no score here";
    });

    paintLegend();
    sayThreshold();
    sayBed();
    document.body.dataset.ready = "yes";
  };

  const wait = () => {
    const views = typeof Bokeh === "undefined" ? [] : Object.values(Bokeh.index);
    const view = views.map((root) => root).find((root) => root.model && root.model.name === "viewer");
    if (view && view.frame && view.el) start(view);
    else setTimeout(wait, 30);
  };
  wait();
})();
