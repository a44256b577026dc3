// The live page. Log text is hostile: it only ever becomes the text of a node, never markup.
"use strict";

const LIVE_MS = 2000, LIST_MS = 4000, PAGE = 20;
const $ = (id) => document.getElementById(id);
const state = { kind: "open", order: "newest", limit: PAGE, labels: [], before: null, now: null, rows: new Map(), busy: new Set() };

// --- small tools ---------------------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawing(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function shown(number) {
  if (number >= 1e6) return (number / 1e6).toFixed(number >= 1e7 ? 0 : 1) + " M";
  if (number >= 1e4) return (number / 1e3).toFixed(number >= 1e5 ? 0 : 1) + " k";
  if (number >= 100 || Number.isInteger(number)) return Math.round(number).toLocaleString("en");
  return number.toFixed(1);
}

function word(number, one) { return number === 1 ? one : one + "s"; }

function many(number, one) { return `${shown(number)} ${word(number, one)}`; }

function span(secs) {
  if (secs < 1) return "now";
  if (secs < 90) return Math.round(secs) + " s";
  if (secs < 5400) return Math.round(secs / 60) + " min";
  if (secs < 129600) return Math.round(secs / 3600) + " h";
  return Math.round(secs / 86400) + " d";
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return (at ? bytes.toFixed(1) : Math.round(bytes)) + " " + units[at];
}

// Control characters and direction marks are shown as what they are.
function harmless(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g,
    (letter) => "\\x" + letter.charCodeAt(0).toString(16).padStart(2, "0"));
}

let toastTimer = 0;
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 5000);
}

function color(label) {
  const at = state.labels.findIndex((known) => known.name === label);
  return at < 0 ? "var(--none)" : `var(--l${at % 10})`;
}

// --- asking --------------------------------------------------------------------------------------------------------

let asking = null;
function askToken() {
  asking = asking || new Promise((resolve) => {
    const dialog = $("ask-token");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("token", $("token").value);
      $("token").value = "";
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function ask(path, options = {}) {
  for (;;) {
    const headers = { ...(options.headers || {}) };
    const token = sessionStorage.getItem("token");
    if (token) headers.Authorization = "Bearer " + token;
    const answer = await fetch(path, { ...options, headers, credentials: "omit" });
    if (answer.status === 401) { await askToken(); continue; }
    if (!answer.ok) {
      let detail = `${answer.status} ${answer.statusText}`;
      try { detail = (await answer.json()).detail || detail; } catch { /* no problem document: the status must do */ }
      throw new Error(detail);
    }
    return answer;
  }
}

async function get(path) { return (await ask(path)).json(); }

async function send(method, path, body) {
  return (await ask(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })).json();
}

// --- now -----------------------------------------------------------------------------------------------------------

function sums(verdicts, field) {
  const found = new Map();
  for (const row of verdicts) found.set(row[field], (found.get(row[field]) || 0) + row.count);
  return found;
}

function rates(field) {
  const total = sums(state.now.verdicts, field);
  if (!state.before) return { total, rate: new Map() };
  const secs = Math.max(0.1, state.now.at - state.before.at);
  const past = sums(state.before.verdicts, field);
  const rate = new Map([...total].map(([name, count]) => [name, Math.max(0, count - (past.get(name) || 0)) / secs]));
  return { total, rate };
}

function tile(words, value, tone = "") {
  return element("div", { class: "tile " + tone }, element("b", { textContent: value }), element("span", { textContent: words }));
}

function showTiles() {
  const { now } = state, stages = sums(now.verdicts, "stage");
  const all = [...stages.values()].reduce((sum, count) => sum + count, 0);
  const rate = [...rates("stage").rate.values()].reduce((sum, value) => sum + value, 0);
  const share = (stage) => all ? (100 * (stages.get(stage) || 0) / all).toFixed(1) + " %" : "–";
  const lag = Math.max(0, ...Object.values(now.inputs).map((input) => input.lag_secs));
  $("tiles").replaceChildren(
    tile(word(rate, "line") + " a second", shown(rate)),
    tile(word(all, "line") + " since the start", shown(all)),
    tile("decided by rules", share("rules")),
    tile("Unclassified", share("none")),
    tile("behind", Object.keys(now.inputs).length ? (lag < 1 ? "< 1 s" : span(lag)) : "–", lag > 60 ? "bad" : lag > 5 ? "warn" : ""),
    tile(word(now.templates, "template") + " known", shown(now.templates)),
  );
}

function showBars(list, field, paint) {
  const { total, rate } = rates(field);
  const rows = [...total].filter(([, count]) => count).sort((one, other) => other[1] - one[1]);
  const most = Math.max(1, ...rows.map(([, count]) => count));
  const known = new Map([...list.children].map((child) => [child.dataset.name, child]));
  list.replaceChildren(...rows.map(([name, count]) => {
    let row = known.get(name);
    if (!row) {
      row = element("li", {}, element("span", { class: "dot" }), element("span", { textContent: name }),
        element("span", { class: "amount" }), element("span", { class: "track" }, element("span", { class: "fill" })));
      row.dataset.name = name;
    }
    row.querySelector(".dot").style.background = row.querySelector(".fill").style.background = paint(name);
    row.querySelector(".fill").style.width = (100 * count / most) + "%";
    row.querySelector(".amount").textContent = `${shown(count)} · ${shown(rate.get(name) || 0)}/s`;
    return row;
  }));
  if (!rows.length) list.replaceChildren(element("li", { class: "quiet", textContent: "No line yet." }));
}

const STAGE_PAINT = { rules: "var(--l0)", model: "var(--l6)", llm: "var(--l2)", none: "var(--none)" };
const STAGE_WORDS = { rules: "rules", model: "model", llm: "LLM and people", none: "nobody" };

function flowRow(name, words, tone, small) {
  return element("li", {}, element("span", { textContent: name }), element("span", { class: "state " + tone, textContent: words }),
    element("small", { textContent: small }));
}

function showFlow() {
  const { now } = state, rows = [];
  for (const [name, input] of Object.entries(now.inputs)) {
    const late = input.lag_secs > 60 ? "bad" : input.lag_secs > 5 ? "warn" : "";
    rows.push(flowRow("→ " + name, input.lag_secs < 1 ? "up to date" : span(input.lag_secs) + " behind", late,
      `${shown(input.read)} read, ${shown(input.in_flight)} under way, ${size(input.lag_bytes)} to deliver` + (input.dropped ? `, ${shown(input.dropped)} dropped` : "")));
  }
  for (const [name, output] of Object.entries(now.outputs)) {
    const away = output.away_secs !== null;
    rows.push(flowRow(name + " →", away ? `away for ${span(output.away_secs)}` : "takes records", away ? "bad" : "", `${shown(output.written)} delivered`));
  }
  const { llm } = now, off = llm.state === "off";
  const tone = off || llm.state === "unknown" ? "neutral" : llm.available ? "" : "warn";
  rows.push(flowRow("LLM", llm.state.replace("_", " "), tone,
    off ? "switched off" : `${llm.model}: ${many(llm.questions, "question")} queued, ${many(llm.records_waiting, "line")} ${llm.records_waiting === 1 ? "waits" : "wait"}` + (llm.available ? "" : "; not asked for now")));
  $("flow").replaceChildren(...rows);
}

function showHealth() {
  const { now } = state;
  $("health").textContent = now.ready ? "ready" : "not ready";
  $("health").className = "pill " + (now.ready ? "good" : "bad");
  $("about").textContent = `${now.version} · generation ${now.generation} · ${many(now.rules, "rule")} · model ${now.model} · up ${span(now.uptime_secs)}`;
  const lines = [...now.troubles.map((text) => [text, ""]), ...now.notes.map((text) => [text, "note"])];
  $("troubles").replaceChildren(...lines.map(([text, tone]) => element("p", { class: tone, textContent: harmless(text) })));
  $("troubles").hidden = !lines.length;
}

function showChart(history) {
  const { times } = history, names = Object.keys(history.labels);
  const chart = $("chart"), width = 600, height = 150;
  const most = Math.max(1, ...times.map((_, at) => names.reduce((sum, name) => sum + history.labels[name][at], 0)));
  const order = [...state.labels.map((label) => label.name), "Unclassified"].filter((name) => names.includes(name));
  const floor = times.map(() => 0), step = width / Math.max(1, times.length - 1);
  const areas = order.map((name) => {
    const below = floor.map((value, at) => `${(at * step).toFixed(1)},${(height - value / most * (height - 8)).toFixed(1)}`);
    history.labels[name].forEach((rate, at) => { floor[at] += rate; });
    const above = floor.map((value, at) => `${(at * step).toFixed(1)},${(height - value / most * (height - 8)).toFixed(1)}`);
    const area = drawing("polygon", { points: [...below, ...above.reverse()].join(" ") });
    area.style.fill = color(name);
    return area;
  });
  chart.replaceChildren(...(times.length > 1 ? areas : []));
  $("chart-note").textContent = times.length > 1 ? `by label, last ${span(times.at(-1) - times[0])}, at most ${shown(most)} a second` : "by label; it begins in a moment";
}

async function live() {
  try {
    const [now, history] = await Promise.all([get("/api/v1/status"), get("/api/v1/history")]);
    state.labels = now.labels;
    state.before = state.now && state.now.at < now.at ? state.now : state.before;
    state.now = now;
    showHealth(); showTiles(); showFlow(); showChart(history);
    showBars($("labels"), "label", color);
    showBars($("stages"), "stage", (name) => STAGE_PAINT[name] || "var(--none)");
    for (const row of $("stages").children) if (row.dataset.name) row.children[1].textContent = STAGE_WORDS[row.dataset.name] || row.dataset.name;
  } catch (error) {
    $("health").textContent = "no answer";
    $("health").className = "pill bad";
    $("about").textContent = error.message;
  }
}

// --- review --------------------------------------------------------------------------------------------------------

function sparkline(minutes) {
  const most = Math.max(1, ...minutes);
  const points = minutes.map((count, at) => `${at} ${(27 - 25 * count / most).toFixed(1)}`);
  const image = drawing("svg", { class: "spark", viewBox: "0 0 59 28", preserveAspectRatio: "none", role: "img", "aria-label": "lines a minute in the last hour" });
  image.append(drawing("path", { class: "area", d: `M0 28L${points.join("L")}L59 28Z` }), drawing("path", { d: "M" + points.join("L") }));
  return image;
}

function labelChoice(chosen) {
  const choice = element("select", { "aria-label": "Label" });
  if (!state.labels.some((label) => label.name === chosen)) choice.append(element("option", { value: "", textContent: "choose a label …" }));
  for (const label of state.labels) choice.append(element("option", { value: label.name, textContent: label.name, title: label.description, selected: label.name === chosen }));
  return choice;
}

function keyOf(template) { return template.template + " " + template.source; }

function makeRow(template) {
  const row = element("li", { class: "template" });
  const choice = labelChoice(template.label);
  const set = element("button", { type: "button", class: "set" });
  const rule = element("button", { type: "button", textContent: "Make a rule" });
  const words = () => { set.textContent = choice.value && choice.value === row.template.label ? "Accept" : "Set"; set.disabled = !choice.value; };
  choice.addEventListener("change", words);
  set.addEventListener("click", () => review(row, choice.value));
  rule.addEventListener("click", () => propose(row.template, choice.value));
  row.append(
    element("p", { class: "example", tabIndex: 0 }),
    element("div", { class: "number" }),
    element("div", { class: "facts" }),
    element("div", { class: "actions" }, choice, set, rule),
  );
  row.template = template;
  words();
  return row;
}

function fillRow(row, template) {
  row.template = template;
  row.style.borderLeftColor = color(template.label);
  const example = row.querySelector(".example"), text = harmless(template.example) || "(empty)";
  if (example.textContent !== text) example.textContent = text;
  row.querySelector(".number").replaceChildren(element("b", { textContent: shown(template.count) }), sparkline(template.minutes));
  const tag = element("span", { class: "tag", textContent: template.label });
  tag.style.color = color(template.label);
  const by = { rules: "rule " + template.rule, model: "model", llm: "LLM or person", none: (template.reason || "").replaceAll("_", " ") }[template.stage];
  const ago = Math.max(0, (state.now ? state.now.at : Date.now() / 1000) - template.first_at);
  row.querySelector(".facts").replaceChildren(tag, element("span", { textContent: by || template.stage }),
    element("span", { textContent: template.confidence ? `confidence ${template.confidence.toFixed(2)}` : "" }),
    element("span", { textContent: harmless(template.source) }), element("span", { textContent: ago < 1 ? "new" : `first ${span(ago)} ago` }));
}

// One list at a time; what was asked for meanwhile is shown by one more.
let listing = false, again = false;
async function list() {
  again = true;
  if (listing) return;
  listing = true;
  while (again) { again = false; await listOnce(); }
  listing = false;
}

async function listOnce() {
  let found;
  try {
    found = await get(`/api/v1/templates?kind=${state.kind}&order=${state.order}&limit=${state.limit}`);
  } catch { return; } // the pill at the top says that nothing answers
  const wanted = $("filter").value.toLowerCase();
  const fits = found.templates.filter((row) => !wanted || [row.example, row.label, row.source, row.template, row.rule || ""].some((text) => text.toLowerCase().includes(wanted)));
  const rows = fits.map((template) => {
    const key = keyOf(template), row = state.rows.get(key) || makeRow(template);
    state.rows.set(key, row);
    if (!row.classList.contains("done")) fillRow(row, template);
    return row;
  });
  const kept = new Set(rows);
  for (const [key, row] of state.rows) if (!kept.has(row)) state.rows.delete(key);
  const box = $("templates");
  // Rows stay in place while somebody works in one of them: nothing jumps away under the pointer.
  if (!box.contains(document.activeElement) || box.children.length === 0) {
    if (rows.length !== box.children.length || rows.some((row, at) => box.children[at] !== row)) box.replaceChildren(...rows);
  }
  $("nothing").hidden = rows.length > 0;
  $("nothing").textContent = wanted ? "Nothing fits the filter." : state.kind === "all" ? "No line came by yet." : "Nothing to review: rules, memory and model are sure of everything that came by.";
  $("review-note").textContent = found.total ? `${shown(Math.min(state.limit, found.total))} of ${many(found.total, "template")}` : "";
  $("more").hidden = found.total <= state.limit || state.limit >= 2000;
}

async function review(row, label) {
  const { template, source } = row.template;
  const buttons = row.querySelectorAll("button, select");
  for (const button of buttons) button.disabled = true;
  try {
    await send("PUT", `/api/v1/verdicts/${template}`, { source, label });
    row.classList.add("done");
    toast(`From now on “${label}”, by your word.`);
    document.activeElement.blur();
    setTimeout(() => { row.classList.remove("done"); for (const button of buttons) button.disabled = false; list(); }, 2500);
  } catch (error) {
    for (const button of buttons) button.disabled = false;
    toast(error.message);
  }
}

// --- a rule --------------------------------------------------------------------------------------------------------

function showMatches(found) {
  const labels = Object.entries(found.labels).map(([label, count]) => `${shown(count)} ${label}`).join(", ");
  $("rule-matches").replaceChildren(
    element("b", { textContent: `Matches ${many(found.lines, "line")} of ${many(found.templates, "template")}` }),
    element("span", { textContent: labels ? ` met lately, now: ${labels}` : " met lately" }),
    element("ul", {}, ...found.examples.map((text) => element("li", { textContent: harmless(text) }))),
  );
}

function ruleError(text) {
  $("rule-error").textContent = text || "";
  $("rule-error").hidden = !text;
}

async function propose(template, label) {
  ruleError("");
  $("rule-label").replaceChildren(...labelChoice(label || template.label).children);
  $("rule-matches").replaceChildren();
  $("rule-pattern").value = $("rule-id").value = "";
  $("rule-example").value = template.example;
  $("rule").showModal();
  try {
    const found = await send("POST", "/api/v1/rules/propose", { template: template.template, source: template.source });
    $("rule-pattern").value = found.pattern;
    $("rule-id").value = found.id;
    $("rule-example").value = found.example;
    showMatches(found.matches);
  } catch (error) { ruleError(error.message); }
}

let tryTimer = 0;
function tryPattern() {
  clearTimeout(tryTimer);
  tryTimer = setTimeout(async () => {
    const pattern = $("rule-pattern").value;
    if (!pattern) return;
    try {
      showMatches(await send("POST", "/api/v1/rules/try", { pattern }));
      ruleError("");
    } catch (error) { ruleError(error.message); }
  }, 300);
}

async function saveRule(event) {
  event.preventDefault();
  const rule = { id: $("rule-id").value, label: $("rule-label").value, pattern: $("rule-pattern").value, example: $("rule-example").value };
  if (!rule.label) { ruleError("choose a label"); return; }
  $("rule-save").disabled = true;
  ruleError("");
  try {
    const saved = await send("POST", "/api/v1/rules", rule);
    $("rule").close();
    toast(`Saved to ${saved.file}; in force since generation ${saved.generation}.`);
    list();
  } catch (error) { ruleError(error.message); }
  $("rule-save").disabled = false;
}

// --- explain -------------------------------------------------------------------------------------------------------

function took(microseconds) {
  if (microseconds < 1000) return Math.round(microseconds) + " µs";
  return microseconds < 1e6 ? (microseconds / 1000).toFixed(1) + " ms" : (microseconds / 1e6).toFixed(1) + " s";
}

async function explain(event) {
  event.preventDefault();
  const box = $("explained");
  box.replaceChildren(element("p", { class: "quiet", textContent: "asking the stages …" }));
  try {
    const found = await send("POST", "/api/v1/explain", { source: $("source").value, log_message: $("line").value });
    const verdict = found.logclf, label = element("b", { textContent: verdict.label });
    label.style.color = color(verdict.label);
    const why = verdict.rule ? `rule ${verdict.rule}` : verdict.reason ? verdict.reason.replaceAll("_", " ") : verdict.stage;
    const rows = found.steps.map((step) => element("tr", {},
      element("td", { textContent: step.stage }),
      element("td", { textContent: step.label || ("abstains" + (step.reason ? `: ${step.reason.replaceAll("_", " ")}` : "")) }),
      element("td", { textContent: [step.rule && `rule ${step.rule}`, step.confidence !== null && step.stage !== "rules" && `confidence ${step.confidence.toFixed(2)}`].filter(Boolean).join(", ") }),
      element("td", { textContent: took(step.microseconds) })));
    box.replaceChildren(
      element("p", { class: "verdict" }, label, element("span", { class: "tag", textContent: why }), element("span", { class: "quiet", textContent: verdict.confidence == null ? "" : `confidence ${verdict.confidence.toFixed(2)}` })),
      element("p", { class: "quiet" }, "template ", element("code", { textContent: harmless(found.template) })),
      element("table", { class: "steps" }, element("thead", {}, element("tr", {}, ...["stage", "says", "why", "took"].map((text) => element("th", { textContent: text })))), element("tbody", {}, ...rows)),
      element("p", { class: "quiet record" }, "record ", element("code", { textContent: harmless(JSON.stringify(found.record)) })),
    );
  } catch (error) { box.replaceChildren(element("p", { class: "error", textContent: error.message })); }
}

// --- CSV -----------------------------------------------------------------------------------------------------------

async function label(file) {
  const box = $("csv-result"), form = new FormData();
  form.append("file", file);
  box.replaceChildren(element("progress", { "aria-label": "working" }), element("p", { class: "quiet", textContent: `labelling ${harmless(file.name)}, ${size(file.size)} …` }));
  const started = performance.now();
  try {
    const answer = await ask("/classify" + ($("with-reasons").checked ? "?explain=true" : ""), { method: "POST", body: form });
    const blob = await answer.blob();
    const link = element("a", { href: URL.createObjectURL(blob), download: file.name.replace(/\.csv$/i, "") + ".labelled.csv", textContent: "Save the labelled CSV" });
    box.replaceChildren(element("p", {}, link, element("span", { class: "quiet", textContent: ` ${size(blob.size)}, in ${span((performance.now() - started) / 1000)}` })));
    link.focus();
  } catch (error) { box.replaceChildren(element("p", { class: "error", textContent: harmless(error.message) })); }
}

// --- wiring --------------------------------------------------------------------------------------------------------

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
}

function every(milliseconds, step) {
  const turn = async () => {
    if (!document.hidden) await step();
    setTimeout(turn, milliseconds);
  };
  turn();
}

function wire() {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  $("theme").addEventListener("click", theme);
  for (const tab of document.querySelectorAll("[data-kind]")) tab.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-kind]")) other.setAttribute("aria-pressed", String(other === tab));
    state.kind = tab.dataset.kind;
    state.limit = PAGE;
    list();
  });
  $("order").addEventListener("change", () => { state.order = $("order").value; list(); });
  $("filter").addEventListener("input", () => { if ($("filter").value) state.limit = 2000; list(); });
  $("more").addEventListener("click", () => { state.limit = Math.min(2000, state.limit * 4); list(); });
  $("explain-form").addEventListener("submit", explain);
  $("line").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey) explain(event); });
  $("rule-form").addEventListener("submit", saveRule);
  $("rule-cancel").addEventListener("click", () => $("rule").close());
  $("rule-pattern").addEventListener("input", tryPattern);
  $("file").addEventListener("change", () => { if ($("file").files[0]) label($("file").files[0]); $("file").value = ""; });
  const drop = $("drop");
  for (const name of ["dragover", "dragleave", "drop"]) drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) label(event.dataTransfer.files[0]);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || /INPUT|TEXTAREA|SELECT/.test(document.activeElement.tagName)) return;
    event.preventDefault();
    $("filter").focus();
  });
  every(LIVE_MS, live);
  every(LIST_MS, async () => { if (state.now) await list(); });
  setTimeout(list, 400);
}

wire();
