// The page of perfkit load's web UI. Texts of the server are only ever set as text, never as markup.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const boot = JSON.parse($("boot").textContent);
  const { number, clock } = window.perfkitCharts;
  const store = { get: (k) => { try { return localStorage.getItem(k); } catch { return null; } },
    set: (k, v) => { try { localStorage.setItem(k, v); } catch { /* as it was */ } } };
  let view = boot.view, seconds = [], run = 0, formOpen = false, formFor = "", tab = "";
  let sort = { key: "name", down: false };
  const active = () => ["spawning", "running", "stopping"].includes(view.state);

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // Tabs: one is open; the arrow keys go through them.
  const sections = [...document.querySelectorAll("#results > section")];
  const tabs = sections.map((section) => {
    const button = make("button", section.dataset.title);
    button.type = "button";
    button.id = section.id.replace("panel", "tab");
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", section.id);
    section.setAttribute("role", "tabpanel");
    section.setAttribute("aria-labelledby", button.id);
    button.addEventListener("click", () => open(section.id.slice(6), true));
    document.querySelector(".tabs").append(button);
    return button;
  });
  document.querySelector(".tabs").addEventListener("keydown", (e) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
  function open(name, told) {
    if (!sections.some((s) => s.id === `panel-${name}`)) name = "statistics";
    tab = name;
    sections.forEach((s, i) => {
      const is = s.id === `panel-${name}`;
      s.hidden = !is;
      tabs[i].setAttribute("aria-selected", String(is));
      tabs[i].tabIndex = is ? 0 : -1;
      const strip = tabs[i].parentElement;
      if (is) strip.scrollLeft = tabs[i].offsetLeft - strip.offsetLeft - (strip.clientWidth - tabs[i].offsetWidth) / 2;
    });
    if (told) history.replaceState(null, "", `#${name}`);
    if (name === "charts") charts.update(seconds);
    aside();
  }

  const charts = window.perfkitCharts.load($("panel-charts"));

  // Tables.
  const ms = (v) => number(v);
  const columns = [
    { title: "Type", key: "method" },
    { title: "Name", key: "name", className: "name-cell" },
    { title: "#\u00a0Requests", key: "num_requests", n: true, show: number },
    { title: "#\u00a0Fails", key: "num_failures", n: true, show: number, bad: (r) => r.num_failures > 0 },
    { title: "Median (ms)", key: "median_response_time", n: true, show: ms },
    { title: "95%ile (ms)", key: "response_time_percentile_0.95", n: true, show: ms },
    { title: "99%ile (ms)", key: "response_time_percentile_0.99", n: true, show: ms },
    { title: "99.9%ile (ms)", key: "response_time_percentile_0.999", n: true, show: ms },
    { title: "Average (ms)", key: "avg_response_time", n: true, show: ms },
    { title: "Min (ms)", key: "min_response_time_ms", n: true, show: ms },
    { title: "Max (ms)", key: "max_response_time_ms", n: true, show: ms },
    { title: "Service (ms)", key: "avg_service_time", n: true, show: ms, hint: "mean time from sending to the last byte, without waiting for the generator" },
    { title: "Average size (bytes)", key: "avg_content_length", n: true, show: number },
    { title: "Current RPS", key: "current_rps", n: true, show: number },
    { title: "Current Failures/s", key: "current_fail_per_sec", n: true, show: number, bad: (r) => r.current_fail_per_sec > 0 },
  ];
  const failureColumns = [
    { title: "#\u00a0Failures", key: "occurrences", n: true, show: number },
    { title: "Method", key: "method" },
    { title: "Name", key: "name", className: "name-cell" },
    { title: "Message", key: "error", className: "text" },
    { title: "Kind", key: "kind" },
    { title: "First", key: "first_seen", show: wall },
    { title: "Last", key: "last_seen", show: wall },
  ];
  const exceptionColumns = [
    { title: "#\u00a0Occurrences", key: "count", n: true, show: number },
    { title: "Message", key: "msg", className: "text" },
    { title: "Traceback", key: "traceback", className: "text" },
    { title: "Nodes", key: "nodes" },
  ];
  function wall(s) {
    return s ? new Date(s * 1000).toLocaleTimeString([], { hour12: false }) : "–";
  }
  function cells(row, all) {
    const tr = make("tr");
    for (const c of all) {
      const value = row[c.key];
      const td = make("td", c.show ? c.show(value) : value, c.className || (c.n ? "n" : ""));
      if (c.bad && c.bad(row)) td.classList.add("bad");
      tr.append(td);
    }
    return tr;
  }
  function head(table, all, onSort) {
    const tr = make("tr");
    for (const c of all) {
      const th = make("th", onSort ? "" : c.title, c.n ? "n" : "");
      th.scope = "col";
      if (c.hint) th.title = c.hint;
      if (onSort) {
        const button = make("button", c.title);
        button.type = "button";
        button.addEventListener("click", () => onSort(c));
        th.dataset.key = c.key;
        th.append(button);
      }
      tr.append(th);
    }
    table.tHead.replaceChildren(tr);
  }
  const statistics = document.querySelector("#panel-statistics table");
  head(statistics, columns, (c) => {
    sort = { key: c.key, down: sort.key === c.key ? !sort.down : Boolean(c.n) };
    showStatistics();
  });
  const failureTable = document.querySelector("#panel-failures table");
  head(failureTable, failureColumns);
  const exceptionTable = document.querySelector("#panel-exceptions table");
  head(exceptionTable, exceptionColumns);

  function empty(table, all, text) {
    const tr = make("tr"), td = make("td", text, "empty");
    td.colSpan = all.length;
    tr.append(td);
    table.tBodies[0].replaceChildren(tr);
  }
  function fill(table, all, rows, nothing) {
    if (rows.length) table.tBodies[0].replaceChildren(...rows.map((r) => cells(r, all)));
    else empty(table, all, nothing);
  }

  function showStatistics() {
    const rows = view.stats.slice(0, -1), total = view.stats[view.stats.length - 1];
    const sign = sort.down ? -1 : 1;
    rows.sort((a, b) => {
      const x = a[sort.key] ?? -1, y = b[sort.key] ?? -1;
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.name.localeCompare(b.name);
    });
    for (const th of statistics.tHead.rows[0].cells) {
      const is = th.dataset.key === sort.key;
      th.setAttribute("aria-sort", is ? (sort.down ? "descending" : "ascending") : "none");
      th.firstChild.textContent = columns.find((c) => c.key === th.dataset.key).title + (is ? (sort.down ? " ▼" : " ▲") : "");
    }
    fill(statistics, columns, rows, "No request has ended yet.");
    statistics.tFoot.replaceChildren(...(rows.length ? [cells(total, columns)] : []));
    const parts = [];
    const spread = (name, s) => {
      if (s && s.p50 !== null) parts.push(`${name}: median ${ms(s.p50)}, 95 % ${ms(s.p95)}, 99 % ${ms(s.p99)}, longest ${ms(s.max)} ms.`);
    };
    parts.push("Response times run from when a request was due; service from when it was sent.");
    spread("Service time", view.service_ms);
    spread("The generator's own delay (lag)", view.lag_ms);
    if (active()) parts.push(`Longest lag of the last ten seconds: ${ms(view.lag_max_ms)} ms.`);
    $("spread").textContent = parts.join(" ");
    const targets = $("targets");
    targets.replaceChildren();
    if (view.targets.length && view.totals.requests > 0) {
      const list = make("ul");
      for (const t of view.targets) {
        const item = make("li");
        const value = t.value === null ? "not measured" : `${number(t.value)} ${t.unit}`;
        item.append(make("span", t.grade, `grade-${t.grade}`),
          ` ${t.name ? t.name + " " : ""}${t.metric} ${value} (wanted ${t.above ? ">" : "<"} ${number(t.target)} ${t.unit}` +
          `${t.acceptable === null ? "" : `, acceptable ${number(t.acceptable)}`})`);
        list.append(item);
      }
      targets.append(make("h2", "Targets"), list);
      targets.className = "card";
    } else targets.className = "";
  }

  // What only an open tab needs.
  async function get(path) {
    const answer = await fetch(path, { credentials: "same-origin", cache: "no-store" });
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  }
  async function aside() {
    try {
      if (tab === "ratio") showRatio(await get("tasks"));
      if (tab === "logs") showLogs((await get("logs")).master);
      if (tab === "exceptions") {
        fill(exceptionTable, exceptionColumns, (await get("exceptions")).exceptions, "Nothing was raised.");
      }
    } catch { /* the poll says that nobody answers */ }
  }
  let ratioShown = "";
  function showRatio(data) {
    const text = JSON.stringify(data);
    if (text === ratioShown) return;
    ratioShown = text;
    const list = (map) => {
      const ul = make("ul");
      for (const [name, entry] of Object.entries(map || {})) {
        const li = make("li"), line = make("div", null, "ratio");
        line.append(make("b", `${(100 * entry.ratio).toFixed(1)} %`), make("span", name));
        li.append(line);
        if (entry.tasks) li.append(list(entry.tasks));
        ul.append(li);
      }
      return ul;
    };
    const box = (title, map) => {
      const div = make("div", null, "card");
      div.append(make("h2", title), list(map));
      return div;
    };
    $("panel-ratio").replaceChildren(box("Ratio per class", data.per_class), box("Total ratio", data.total));
  }
  function showLogs(lines) {
    const pre = document.querySelector("pre.log");
    const atEnd = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 30;
    const text = lines.length ? lines.join("\n") : "Nothing was said yet.";
    if (pre.textContent === text) return;
    pre.textContent = text;
    if (atEnd) pre.scrollTop = pre.scrollHeight;
  }

  // The form: to start, to start again, to change the users.
  const form = $("form");
  const field = (name) => form.elements.namedItem(name);
  function openForm(kind) {
    formOpen = true;
    formFor = kind;
    const asked = view.asked, edit = kind === "edit", scheduled = Boolean(asked.schedule);
    $("form-title").textContent = edit ? "Change the running load" : kind === "new" ? "Start a new load" : "Start a load";
    $("submit").textContent = edit ? "Change" : "Start";
    $("cancel").hidden = view.state === "ready";
    $("schedule").hidden = !scheduled;
    $("schedule").textContent = scheduled ? `Its schedule: ${asked.schedule}.` : "";
    $("levels").hidden = $("rate-label").hidden = scheduled;
    $("host-label").hidden = $("run-time-label").hidden = edit;
    field("user_count").value = asked.users ?? 1;
    field("spawn_rate").value = asked.spawn_rate ?? 1;
    field("host").value = asked.host ?? "";
    field("host").placeholder = asked.host ? "" : "as the classes have it";
    field("run_time").value = asked.run_time_s ? `${asked.run_time_s}s` : "";
    const picker = $("picker");
    picker.hidden = !boot.class_picker || edit;
    picker.replaceChildren(make("legend", "User classes"), ...view.classes.map((c) => {
      const label = make("label"), box = make("input");
      box.type = "checkbox"; box.name = "user_classes"; box.value = c.name;
      box.checked = !asked.classes.length || asked.classes.includes(c.name);
      const how = c.fixed_count ? `${c.fixed_count} users` : `weight ${c.weight}`;
      label.append(box, c.name, make("small", `${how}: ${c.tasks.join(", ")}`));
      return label;
    }));
    fail("");
    show();
    field(scheduled ? "run_time" : "user_count").focus();
  }
  function fail(text) {
    $("form-error").textContent = text;
    $("form-error").hidden = !text;
  }
  async function post(path, body) {
    const answer = await fetch(path, { method: "POST", body, credentials: "same-origin", cache: "no-store" });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text || String(answer.status));
    return text;
  }
  form.addEventListener("submit", async (e) => {
    e.preventDefault();
    const body = new URLSearchParams();
    const scheduled = Boolean(view.asked.schedule), edit = formFor === "edit";
    if (!scheduled) for (const name of ["user_count", "spawn_rate"]) body.append(name, field(name).value.trim());
    if (!edit) {
      body.append("host", field("host").value.trim());
      body.append("run_time", field("run_time").value.trim());
      if (boot.class_picker) {
        const chosen = [...form.querySelectorAll("[name=user_classes]:checked")];
        if (!chosen.length) return fail("Choose at least one class.");
        for (const box of chosen) body.append("user_classes", box.value);
      }
    }
    $("submit").disabled = true;
    try {
      const reply = JSON.parse(await post("swarm", body));
      if (!reply.success) return fail(reply.message);
      formOpen = false;
      await poll();
    } catch (error) {
      fail(error.message);
    } finally {
      $("submit").disabled = false;
    }
  });
  $("cancel").addEventListener("click", () => { formOpen = false; show(); });
  $("edit").addEventListener("click", () => openForm("edit"));
  $("new").addEventListener("click", () => openForm("new"));
  const press = (id, path) => $(id).addEventListener("click", async () => {
    $(id).disabled = true;
    try { await post(path); await poll(); } catch (error) { lost(error.message); } finally { $(id).disabled = false; }
  });
  press("stop", "stop");
  press("reset", "stats/reset");

  const themes = ["", "light", "dark"];
  function theme(name) {
    if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
    $("theme").textContent = `Theme: ${name || "system"}`;
    charts.redraw();
  }
  theme(themes.includes(store.get("perfkit-theme")) ? store.get("perfkit-theme") : "");
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "") + 1) % themes.length];
    store.set("perfkit-theme", next);
    theme(next);
  });

  // The whole.
  function lost(text) {
    $("lost").textContent = text;
    $("lost").hidden = !text;
  }
  function show() {
    const v = view, running = active();
    if (v.state === "ready" && !formOpen) return openForm("start");
    $("scenario").textContent = v.scenario;
    $("host").textContent = v.asked.host || "of each class";
    $("state").textContent = v.state;
    const elapsed = running && v.start_s ? Math.max(0, v.end_s - v.start_s) : v.totals.duration_s;
    $("time").textContent = v.asked.run_time_s && running ? `${clock(elapsed)} of ${clock(v.asked.run_time_s)}` : clock(elapsed);
    $("time-fact").hidden = v.state === "ready";
    $("users-name").textContent = v.model === "open" ? "Tasks at once" : "Users";
    $("users").textContent = number(v.user_count);
    $("rps").textContent = number(running ? v.current_rps : v.total_rps);
    const share = 100 * v.fail_ratio;
    $("failures").textContent = `${share > 0 && share < 0.1 ? "< 0.1" : share.toFixed(share < 10 ? 1 : 0)} %`;
    $("failures").classList.toggle("bad", v.totals.failures > 0);
    $("edit").hidden = !["spawning", "running"].includes(v.state) || Boolean(v.asked.schedule);
    $("stop").hidden = !["spawning", "running"].includes(v.state);
    $("new").hidden = v.state !== "stopped" || formOpen;
    $("reset").hidden = v.state === "ready";
    form.hidden = !formOpen;
    $("results").hidden = v.state === "ready" || (formOpen && formFor !== "edit");
    $("marks").replaceChildren(...v.marks.map((m) => make("p", m, "note")));
    document.title = running ? `${number(v.current_rps)} RPS · perfkit load` : `${v.state} · perfkit load`;
    showStatistics();
    fill(failureTable, failureColumns, v.errors, "Nothing has failed.");
    if (tab === "charts") charts.update(seconds);
  }
  function take(next) {
    if (next.run !== run || next.from === 0) seconds = [];
    run = next.run;
    seconds = seconds.slice(0, next.from).concat(next.seconds);
    if (formOpen && formFor === "start" && next.state !== "ready") formOpen = false;
    view = next;
  }
  let timer = 0, asking = null;
  function poll() {
    clearTimeout(timer);
    asking ??= (async () => {
      try {
        take(await get(`perfkit/view?run=${run}&from=${seconds.length}`));
        lost("");
        show();
        await aside();
      } catch {
        lost("perfkit does not answer; what is shown is the last that it said.");
      } finally {
        asking = null;
        timer = setTimeout(poll, view.more ? 0 : document.hidden ? 5000 : 1000);
      }
    })();
    return asking;
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  take(boot.view);
  open(location.hash.slice(1) || store.get("perfkit-tab") || "statistics", false);
  show();
  poll();
})();
