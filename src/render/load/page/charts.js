// Line charts over the seconds of a load run, on canvases, for the web UI and for the HTML report.
//
//   const group = perfkitCharts.group();
//   group.add(element, { title, unit, series: [{ name, key, shape: "line" | "area", how: "max" | "mean", tone: 1 }] });
//   group.update(seconds);        // objects with at_s and the series' keys; null or undefined is a gap
//   group.redraw();               // after a change of size or theme
//
// Each chart says its values in words (the readout above it), so that neither colour nor a pointer is needed: lines differ in
// their dashes, too, and the arrow keys move the cursor. The cursor is shared by all charts of a group.
"use strict";
window.perfkitCharts = (() => {
  const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];
  const PAD = { left: 54, right: 12, top: 8, bottom: 22 };

  // Three digits; whole numbers as they are.
  function number(value) {
    if (value === null || value === undefined || !isFinite(value)) return "–";
    const size = Math.abs(value);
    const digits = Number.isInteger(value) || size >= 100 ? 0 : size >= 10 ? 1 : 2;
    return value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });
  }

  function clock(seconds) {
    const s = Math.max(0, Math.round(seconds));
    const two = (n) => String(n).padStart(2, "0");
    const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    return h > 0 ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
  }

  // The next of 1, 2, 2.5, 5 × 10^n that is not below.
  function nice(value) {
    if (!(value > 0)) return 1;
    const power = Math.pow(10, Math.floor(Math.log10(value)));
    for (const step of [1, 2, 2.5, 5, 10]) if (step * power >= value * 0.999999) return step * power;
    return 10 * power;
  }

  const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

  // At most `room` points: the mean of a rate, the worst of a time.
  function thin(points, keys, room) {
    if (points.length <= room) return points;
    const out = [], width = Math.ceil(points.length / room);
    for (let i = 0; i < points.length; i += width) {
      const part = points.slice(i, i + width);
      const merged = { at_s: part[part.length - 1].at_s };
      for (const { key, how } of keys) {
        const known = part.map((p) => p[key]).filter((v) => v !== null && v !== undefined);
        merged[key] = !known.length ? null
          : how === "mean" ? known.reduce((a, b) => a + b, 0) / known.length : Math.max(...known);
      }
      out.push(merged);
    }
    return out;
  }

  function make(group, host, spec) {
    const figure = document.createElement("figure");
    figure.className = "chart";
    const caption = document.createElement("figcaption");
    const title = document.createElement("span");
    title.className = "chart-title";
    title.textContent = spec.unit ? `${spec.title} (${spec.unit})` : spec.title;
    const readout = document.createElement("span");
    readout.className = "chart-readout";
    caption.append(title, readout);
    const canvas = document.createElement("canvas");
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    figure.append(caption, canvas);
    host.append(figure);
    const entries = spec.series.map((s, i) => {
      const item = document.createElement("span");
      item.className = "chart-key";
      const sample = document.createElement("canvas");
      sample.width = 44; sample.height = 12;
      sample.setAttribute("aria-hidden", "true");
      const text = document.createElement("span");
      item.append(sample, text);
      readout.append(item);
      return { sample, text, dash: DASHES[i % DASHES.length] };
    });
    const time = document.createElement("span");
    time.className = "chart-time";
    readout.append(time);
    const chart = { shown: [] };

    function colours() {
      const style = getComputedStyle(figure);
      const get = (name, other) => style.getPropertyValue(name).trim() || other;
      return {
        text: get("--muted", "#666"), grid: get("--line", "#ddd"), cursor: get("--text", "#111"),
        series: spec.series.map((s, i) => get(`--series-${s.tone || i + 1}`, "#2563eb")),
      };
    }

    function words(point) {
      spec.series.forEach((s, i) => {
        entries[i].text.textContent = `${s.name} ${number(point ? point[s.key] : null)}`;
      });
      time.textContent = !point ? "" : group.cursor === null ? "last" : `at ${clock(point.at_s)}`;
      const values = spec.series.map((s) => `${s.name} ${number(point ? point[s.key] : null)}`).join(", ");
      canvas.setAttribute("aria-label", `${spec.title}${spec.unit ? ", " + spec.unit : ""}: ${values}`);
    }

    chart.draw = () => {
      const ratio = window.devicePixelRatio || 1;
      const width = caption.clientWidth, height = spec.height || 190;
      if (width < 40) return;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const g = canvas.getContext("2d");
      g.setTransform(ratio, 0, 0, ratio, 0, 0);
      g.clearRect(0, 0, width, height);
      const c = colours();
      g.font = "12px system-ui, sans-serif";
      const inner = { w: width - PAD.left - PAD.right, h: height - PAD.top - PAD.bottom };
      const points = thin(group.points, spec.series, Math.max(50, Math.floor(inner.w)));
      chart.shown = points;
      const last = points.length ? points[points.length - 1].at_s : 0;
      const first = points.length ? Math.max(0, points[0].at_s - 1) : 0;
      const span = Math.max(10, last - first);
      let top = 0;
      for (const p of points) for (const s of spec.series) top = Math.max(top, p[s.key] || 0);
      const step = nice(Math.max(top, spec.least || 1) / 4);
      const lines = Math.max(1, Math.ceil(Math.max(top, spec.least || 1) / step - 1e-9));
      top = step * lines;
      const x = (at) => PAD.left + (at - first) / span * inner.w;
      const y = (v) => PAD.top + inner.h - v / top * inner.h;
      chart.at = (px) => first + (px - PAD.left) / inner.w * span;
      g.lineWidth = 1;
      g.strokeStyle = c.grid; g.fillStyle = c.text;
      g.textAlign = "right"; g.textBaseline = "middle";
      for (let i = 0; i <= lines; i += 1) {
        const at = Math.round(y(i * step)) + 0.5;
        g.beginPath(); g.moveTo(PAD.left, at); g.lineTo(width - PAD.right, at); g.stroke();
        g.fillText(number(i * step), PAD.left - 6, at);
      }
      g.textBaseline = "top";
      const most = Math.max(2, Math.floor(inner.w / 70));
      const tick = TIME_STEPS.find((t) => span / t <= most) || 86400;
      for (let at = Math.ceil(first / tick) * tick; at <= first + span; at += tick) {
        g.textAlign = x(at) > width - 30 ? "right" : "center";
        g.fillText(clock(at), Math.min(x(at), width - 2), height - PAD.bottom + 6);
      }
      spec.series.forEach((s, i) => {
        g.strokeStyle = c.series[i]; g.fillStyle = c.series[i];
        g.lineWidth = 1.8;
        g.setLineDash(entries[i].dash);
        let open = false, lonely = null;
        g.beginPath();
        for (const p of points) {
          const v = p[s.key];
          if (v === null || v === undefined) { open = false; continue; }
          if (open) { g.lineTo(x(p.at_s), y(v)); lonely = null; } else {
            if (lonely) g.rect(x(lonely.at_s) - 1, y(lonely[s.key]) - 1, 2, 2);
            g.moveTo(x(p.at_s), y(v)); lonely = p; open = true;
          }
        }
        if (lonely) g.rect(x(lonely.at_s) - 1, y(lonely[s.key]) - 1, 2, 2);
        g.stroke();
        g.setLineDash([]);
        const k = entries[i].sample.getContext("2d");
        k.clearRect(0, 0, 44, 12);
        k.strokeStyle = c.series[i]; k.lineWidth = 3;
        k.setLineDash(entries[i].dash.map((d) => d * 1.3));
        k.beginPath(); k.moveTo(1, 6); k.lineTo(43, 6); k.stroke();
      });
      let point = points[points.length - 1];
      if (group.cursor !== null && points.length) {
        point = points.reduce((a, b) => Math.abs(b.at_s - group.cursor) < Math.abs(a.at_s - group.cursor) ? b : a);
        const at = Math.round(x(point.at_s)) + 0.5;
        g.strokeStyle = c.cursor; g.lineWidth = 1;
        g.beginPath(); g.moveTo(at, PAD.top); g.lineTo(at, PAD.top + inner.h); g.stroke();
        spec.series.forEach((s, i) => {
          const v = point[s.key];
          if (v === null || v === undefined) return;
          g.fillStyle = c.series[i];
          g.beginPath(); g.arc(x(point.at_s), y(v), 3.5, 0, 7); g.fill();
        });
      }
      words(point);
    };

    canvas.addEventListener("pointermove", (e) => {
      const box = canvas.getBoundingClientRect();
      if (chart.at) group.point(chart.at(e.clientX - box.left));
    });
    canvas.addEventListener("pointerleave", () => group.point(null));
    canvas.addEventListener("blur", () => group.point(null));
    canvas.addEventListener("keydown", (e) => {
      const all = chart.shown;
      if (!all.length) return;
      const now = group.cursor === null ? all.length - 1
        : all.reduce((best, p, i) => Math.abs(p.at_s - group.cursor) < Math.abs(all[best].at_s - group.cursor) ? i : best, 0);
      const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: all.length - 1 }[e.key];
      if (e.key === "Escape") group.point(null);
      if (next === undefined) return;
      e.preventDefault();
      group.point(all[Math.min(all.length - 1, Math.max(0, next))].at_s);
    });
    return chart;
  }

  function group() {
    const self = { points: [], cursor: null, charts: [] };
    let waiting = false;
    self.redraw = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; self.charts.forEach((c) => c.draw()); });
    };
    self.add = (host, spec) => { self.charts.push(make(self, host, spec)); self.redraw(); };
    self.update = (points) => { self.points = points; self.redraw(); };
    self.point = (at) => { if (at !== self.cursor) { self.cursor = at; self.redraw(); } };
    window.addEventListener("resize", self.redraw);
    const scheme = window.matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", self.redraw);
    return self;
  }

  // The charts of a load run.
  function load(host) {
    const all = group();
    all.add(host, { title: "Requests and failures", unit: "a second", series: [
      { name: "requests", key: "requests", how: "mean", tone: 1 }, { name: "failures", key: "failures", how: "mean", tone: 4 }] });
    all.add(host, { title: "Response time", unit: "ms", series: [
      { name: "median", key: "p50_ms", how: "max", tone: 1 }, { name: "95 %", key: "p95_ms", how: "max", tone: 2 },
      { name: "99 %", key: "p99_ms", how: "max", tone: 3 }] });
    all.add(host, { title: "Users", unit: "", series: [{ name: "users", key: "users", how: "max", tone: 1 }] });
    all.add(host, { title: "The generator's own delay, longest", unit: "ms", least: 0.1, series: [
      { name: "lag", key: "lag_max_ms", how: "max", tone: 2 }] });
    return all;
  }

  return { group, load, number, clock };
})();
