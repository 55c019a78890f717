// The playground: composes a question, asks every model, shows what the question costs.

import { ApiError, ask, listModels, measure, readKey, writeKey } from "./api.js";
import { Question } from "./parts.js";

const byId = (id) => document.getElementById(id);
const MEASURE_AFTER_MS = 350;
const DIFFER = "The answers differ.";
const DRAGGED = "application/x-vlmserve-part";

const question = new Question(onQuestionChange);
let models = [];
let chosen = new Set();
let running = null; // AbortController of the question that is being answered
let measuring = null;
let measureTimer = 0;
let budget = null;
let partErrors = new Map(); // part -> message
let focusAfterDraw = null;

// ---- small things

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

const count = (n) => n.toLocaleString("en-US");
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const kib = bytes / 1024;
  return kib < 1024 ? `${kib.toFixed(0)} KiB` : `${(kib / 1024).toFixed(1)} MiB`;
}

function show(node, text) {
  node.textContent = text ?? "";
  node.hidden = !text;
}

function say(text) {
  byId("status").textContent = text;
}

// ---- the question

function onQuestionChange() {
  partErrors.clear();
  drawParts();
  scheduleMeasure();
}

function drawParts() {
  const list = byId("parts");
  list.replaceChildren(...question.parts.map(drawPart));
  showPartNotes();
  if (focusAfterDraw) {
    byId(focusAfterDraw)?.focus();
    focusAfterDraw = null;
  }
}

function drawPart(part, index) {
  const name = part.kind === "text" ? `Text ${ordinal(part)}` : `${title(part.kind)} ${ordinal(part)}`;
  const noteId = `${part.id}-note`;
  const errorId = `${part.id}-error`;
  const card = element(
    "li",
    { class: `part ${part.kind}`, id: part.id, tabindex: "-1", "data-part": part.id },
    element(
      "div",
      { class: "part-head" },
      element("span", { class: "handle", draggable: "true", title: "Drag to move", "aria-hidden": "true" }, "⠿"),
      element("span", { class: "part-name" }, name),
      element("span", { class: "part-note", id: noteId }),
      partButton("up", part, index, name, index === 0),
      partButton("down", part, index, name, index === question.parts.length - 1),
      partButton("remove", part, index, name, question.parts.length === 1 && part.kind === "text"),
    ),
    part.kind === "text" ? textField(part, name, noteId, errorId) : mediaView(part),
    element("p", { class: "error", id: errorId, hidden: true }),
  );
  card.addEventListener("keydown", (event) => onPartKey(event, part));
  card.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData(DRAGGED, part.id);
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setDragImage(card, 16, 16);
    card.classList.add("dragged");
  });
  card.addEventListener("dragend", drawParts);
  return card;
}

function ordinal(part) {
  return question.parts.filter((other) => other.kind === part.kind).indexOf(part) + 1;
}

const title = (word) => word[0].toUpperCase() + word.slice(1);

function partButton(action, part, index, name, disabled) {
  const [sign, words] = {
    up: ["↑", `Move ${name} up`],
    down: ["↓", `Move ${name} down`],
    remove: ["✕", `Remove ${name}`],
  }[action];
  return element(
    "button",
    {
      type: "button",
      class: "icon",
      id: `${part.id}-${action}`,
      "aria-label": words,
      title: words,
      disabled,
      onclick: () => (action === "remove" ? removePart(part) : movePart(part, index + (action === "up" ? -1 : 1), action)),
    },
    sign,
  );
}

function textField(part, name, noteId, errorId) {
  const field = element("textarea", {
    id: `${part.id}-text`,
    rows: "2",
    "aria-label": name,
    "aria-describedby": `${noteId} ${errorId}`,
    placeholder: "What do you want to know?",
    oninput: () => {
      part.text = field.value;
      partErrors.delete(part);
      fit(field);
      showPartNotes();
      scheduleMeasure();
    },
  });
  field.value = part.text;
  requestAnimationFrame(() => fit(field));
  return field;
}

function fit(field) {
  field.rows = Math.min(12, Math.max(2, field.value.split("\n").length));
}

function mediaView(part) {
  const view = element("div", { class: "media" });
  if (part.kind === "image") {
    view.append(element("img", { class: "thumb", src: part.url, alt: "" }));
  } else {
    view.append(
      part.poster
        ? element("img", { class: "thumb", src: part.poster, alt: "" })
        : element("span", { class: "thumb film", "aria-hidden": "true" }, "▶"),
    );
  }
  view.append(
    element("div", { class: "media-words" },
      element("span", { class: "file" }, element("bdi", {}, part.name)),
      element("span", { class: "dim" }, size(part.size))),
  );
  return view;
}

function movePart(part, to, action) {
  focusAfterDraw = `${part.id}-${action}`;
  if (!question.move(part, to)) focusAfterDraw = null;
  const button = byId(`${part.id}-${action}`);
  if (button?.disabled) byId(`${part.id}-${action === "up" ? "down" : "up"}`)?.focus();
  say(`Moved to place ${question.parts.indexOf(part) + 1} of ${question.parts.length}.`);
}

function removePart(part) {
  const index = question.parts.indexOf(part);
  question.remove(part);
  const next = question.parts[Math.min(index, question.parts.length - 1)];
  (byId(`${next.id}-text`) ?? byId(`${next.id}-remove`))?.focus();
  say("Removed.");
}

function onPartKey(event, part) {
  if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
    event.preventDefault();
    const focused = document.activeElement?.id ?? "";
    const step = event.key === "ArrowUp" ? -1 : 1;
    focusAfterDraw = focused.startsWith(part.id) ? focused : part.id;
    if (question.move(part, question.parts.indexOf(part) + step)) {
      say(`Moved to place ${question.parts.indexOf(part) + 1} of ${question.parts.length}.`);
    } else focusAfterDraw = null;
  }
}

// Tokens and errors beside each part, without drawing it anew.
function showPartNotes() {
  for (const part of question.parts) {
    const note = byId(`${part.id}-note`);
    const error = byId(`${part.id}-error`);
    if (!note || !error) continue;
    const cost = part.kind === "text" ? null : costOf(part);
    note.textContent = cost?.tokens == null ? "" : `${count(cost.tokens)} tokens`;
    show(error, partErrors.get(part));
    byId(part.id).classList.toggle("wrong", partErrors.has(part));
  }
}

function costOf(part) {
  return budget?.parts.find((each) => each.field && question.partAt(each.field) === part);
}

// ---- files

async function addFiles(files) {
  const refused = [];
  for (const file of files) {
    if (!/^(image|video)\//.test(file.type)) {
      refused.push(`${file.name || "A file"} is neither an image nor a video.`);
      continue;
    }
    try {
      const part = await question.addFile(file);
      say(`Added ${part.name}.`);
    } catch (error) {
      refused.push(error.message);
    }
  }
  show(byId("composer-error"), refused.join(" "));
}

function onDragOver(event) {
  const { types } = event.dataTransfer;
  if (types.includes("Files")) {
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    byId("drop").classList.add("over");
  } else if (types.includes(DRAGGED)) {
    event.preventDefault();
    markPlace(event);
  }
}

function placeOf(event) {
  const cards = [...byId("parts").children];
  const index = cards.findIndex((card) => {
    const box = card.getBoundingClientRect();
    return event.clientY < box.top + box.height / 2;
  });
  return index < 0 ? cards.length : index;
}

function markPlace(event) {
  const place = placeOf(event);
  [...byId("parts").children].forEach((card, index) => {
    card.classList.toggle("before", index === place);
    card.classList.toggle("after", index === place - 1 && place === question.parts.length);
  });
}

function onDrop(event) {
  byId("drop").classList.remove("over");
  if (event.dataTransfer.types.includes(DRAGGED)) {
    event.preventDefault();
    const part = question.parts.find((each) => each.id === event.dataTransfer.getData(DRAGGED));
    const place = placeOf(event);
    if (part) question.move(part, place > question.parts.indexOf(part) ? place - 1 : place);
    drawParts();
  } else if (event.dataTransfer.files.length) {
    event.preventDefault();
    addFiles([...event.dataTransfer.files]);
  }
}

function onPaste(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) {
    event.preventDefault();
    addFiles(files);
  }
}

// ---- models and key

async function loadModels() {
  try {
    models = withAliases(await listModels());
    show(byId("banner"), "");
  } catch (error) {
    models = [];
    if (error.status === 401) openKeyDialog(readKey() ? "The server does not accept this key." : "");
    else show(byId("banner"), error.message);
  }
  chosen = new Set(models.map((model) => model.id));
  drawModels();
  drawAnswers();
  scheduleMeasure();
}

// An alias is listed like a model, with the one that it points to as its root: that one is asked.
function withAliases(listed) {
  const names = new Set(listed.map((model) => model.id));
  const isAlias = (model) => model.root !== model.id && names.has(model.root);
  return listed
    .filter((model) => !isAlias(model))
    .map((model) => ({
      ...model,
      aliases: listed.filter((other) => isAlias(other) && other.root === model.id).map((other) => other.id),
    }));
}

function drawModels() {
  byId("models").hidden = models.length < 2;
  byId("served").textContent = models.length
    ? `${models.length} model${models.length === 1 ? "" : "s"} served`
    : "";
  byId("model-list").replaceChildren(
    ...models.map((model) => {
      const box = element("input", {
        type: "checkbox",
        checked: true,
        onchange: () => {
          if (box.checked) chosen.add(model.id);
          else chosen.delete(model.id);
          drawAnswers();
          scheduleMeasure();
        },
      });
      return element("label", { class: "chip" }, box, element("bdi", {}, model.id), roleBadge(model), aliasNote(model));
    }),
  );
}

function roleBadge(model) {
  const isBase = models.some((other) => other.parent === model.id);
  if (!model.parent && !isBase) return null;
  return element("span", { class: `role ${model.parent ? "tuned" : "base"}` }, model.parent ? "fine-tune" : "base");
}

function aliasNote({ id, aliases }) {
  if (!aliases.length) return null;
  const names = aliases.flatMap((alias, index) => [index ? ", " : "", element("bdi", {}, alias)]);
  return element(
    "span",
    { class: "alias", title: `Requests for ${aliases.join(" or ")} are answered by ${id}` },
    aliases.length > 1 ? "aliases: " : "alias: ",
    ...names,
  );
}

function asked() {
  return models.filter((model) => chosen.has(model.id));
}

function openKeyDialog(reason) {
  byId("key").value = readKey();
  show(byId("key-error"), reason);
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
  byId("key").focus();
}

function useKey(key) {
  writeKey(key.trim());
  byId("key-dialog").close();
  loadModels();
}

// ---- budget

function scheduleMeasure() {
  clearTimeout(measureTimer);
  measureTimer = setTimeout(measureNow, MEASURE_AFTER_MS);
}

function requestBody(model) {
  const body = {
    model,
    messages: question.messages(byId("system").value),
    temperature: Number(byId("temperature").value || 0),
  };
  const most = byId("max-tokens").value;
  if (most) body.max_tokens = Number(most);
  return body;
}

async function measureNow() {
  measuring?.abort();
  const [first] = asked();
  if (!first || question.isEmpty) {
    budget = null;
    drawBudget(question.isEmpty ? "Appears as you compose, without running a model." : "");
    return;
  }
  const own = (measuring = new AbortController());
  byId("budget-total").classList.add("stale");
  try {
    const found = await measure(requestBody(first.id), own.signal);
    if (own !== measuring) return;
    budget = found;
    drawBudget(found.fits ? "" : found.message, !found.fits);
    takePosters();
  } catch (error) {
    if (error.name === "AbortError" || own !== measuring) return;
    budget = null;
    drawBudget(error.message, true);
    blame(error);
  }
  showPartNotes();
}

// A video's own first sampled frame stands for it: browsers know fewer formats than the server.
function takePosters() {
  let isNew = false;
  for (const part of question.parts) {
    const picture = part.kind === "video" && costOf(part)?.sampled_frames.find((frame) => frame.image)?.image;
    if (picture && part.poster !== picture) {
      part.poster = picture;
      byId(part.id)?.querySelector(".thumb")?.replaceWith(element("img", { class: "thumb", src: picture, alt: "" }));
      isNew = true;
    }
  }
  return isNew;
}

function blame(error) {
  const part = question.partAt(error.param);
  if (part) partErrors.set(part, error.message);
}

function drawBudget(note, isError = false) {
  const noteNode = byId("budget-note");
  noteNode.className = isError ? "error" : "dim";
  noteNode.setAttribute("role", isError ? "alert" : "note");
  show(noteNode, note);
  byId("budget").hidden = !budget;
  byId("frames-section").hidden = true;
  const total = byId("budget-total");
  total.classList.remove("stale");
  if (!budget) {
    total.textContent = "";
    return;
  }
  const room = budget.fits ? `, leaving ${count(budget.limit - budget.prompt_tokens)} for the answer` : "";
  total.textContent = `${count(budget.prompt_tokens)} of ${count(budget.limit)} tokens${room}`;
  total.classList.toggle("over", !budget.fits);
  drawMeter();
  byId("budget-rows").replaceChildren(...budget.parts.map(drawBudgetRow));
  drawFrames();
}

function drawMeter() {
  const scale = Math.max(budget.limit, budget.prompt_tokens);
  byId("bar").replaceChildren(
    ...budget.parts
      .filter((part) => part.tokens)
      .map((part) => {
        const piece = element("span", { class: `piece ${part.type}` });
        piece.style.flexBasis = `${(100 * part.tokens) / scale}%`;
        return piece;
      }),
  );
  byId("bar").classList.toggle("over", !budget.fits);
}

function nameOf(part, index) {
  if (part.type === "text") return "Text";
  const own = question.partAt(part.field);
  const number = budget.parts.slice(0, index + 1).filter((each) => each.type === part.type).length;
  return own ? `${title(part.type)} ${ordinal(own)}` : `${title(part.type)} ${number}`;
}

function drawBudgetRow(part, index) {
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, element("span", { class: `dot ${part.type}`, "aria-hidden": "true" }), nameOf(part, index), part.type === "text" ? element("span", { class: "roomy" }, " and template") : null),
    sizeCell(part.width_px, part.height_px, part.n_frames),
    sizeCell(part.resized_width_px, part.resized_height_px, part.sampled_frames?.length),
    element("td", { class: "number" }, part.tokens == null ? "?" : count(part.tokens)),
  );
}

function sizeCell(width, height, frames) {
  const pieces = [];
  if (width != null) pieces.push(`${width} × ${height}`);
  if (frames) pieces.push(`${count(frames)} frames`);
  const cell = element("td");
  pieces.forEach((piece, index) => cell.append(index ? ", " : "", element("span", {}, piece)));
  return cell;
}

function drawFrames() {
  const videos = budget.parts
    .map((part, index) => ({ part, name: nameOf(part, index) }))
    .filter(({ part }) => part.sampled_frames?.some((frame) => frame.image));
  byId("frames-section").hidden = videos.length === 0;
  byId("frames").replaceChildren(
    ...videos.map(({ part, name }) => {
      const shown = part.sampled_frames.filter((frame) => frame.image);
      const of = part.n_frames ? ` of ${count(part.n_frames)}` : "";
      const rate = part.frames_per_second ? ` at ${Number(part.frames_per_second.toFixed(2))} a second` : "";
      const some = shown.length < part.sampled_frames.length ? `, ${shown.length} of them shown` : "";
      return element(
        "figure",
        { class: "clip" },
        element("figcaption", {}, `${name}: ${count(part.sampled_frames.length)}${of} frames${rate} were sampled${some}.`),
        element(
          "ol",
          { class: "strip", tabindex: "0", "aria-label": `Sampled frames of ${name}` },
          ...shown.map((frame) =>
            element(
              "li",
              {},
              element("img", { src: frame.image, alt: `Frame ${frame.index}` }),
              element("span", {}, frame.time_s == null ? `#${frame.index}` : `${frame.time_s.toFixed(2)} s`),
            ),
          ),
        ),
      );
    }),
  );
}

// ---- answers

function drawAnswers() {
  const list = asked();
  byId("answers").replaceChildren(...list.map(answerCard));
  show(byId("verdict"), "");
  if (models.length && !list.length) show(byId("banner"), "Choose at least one model.");
  else if (list.length) show(byId("banner"), "");
}

function answerCard(model) {
  return element(
    "article",
    { class: "answer", "data-model": model.id, "aria-label": `Answer of ${model.id}` },
    element("header", {}, element("h3", {}, element("bdi", {}, model.id)), roleBadge(model), aliasNote(model)),
    element("p", { class: "words placeholder" }, "No question asked yet."),
    element("p", { class: "error", hidden: true }),
    element("dl", { class: "timings", hidden: true }),
  );
}

async function askAll() {
  if (running) return;
  const list = asked();
  if (question.isEmpty) {
    show(byId("composer-error"), "Write a question or add an image first.");
    byId("parts").querySelector("textarea")?.focus();
    return;
  }
  show(byId("composer-error"), "");
  partErrors.clear();
  drawAnswers();
  if (!list.length) return;
  running = new AbortController();
  byId("ask").disabled = true;
  byId("stop").hidden = false;
  say(`Asking ${list.length} model${list.length === 1 ? "" : "s"}.`);
  const answers = await Promise.all(list.map((model) => askOne(model, running.signal)));
  const wasStopped = running.signal.aborted;
  running = null;
  byId("ask").disabled = false;
  byId("stop").hidden = true;
  showPartNotes();
  compare(answers, wasStopped);
}

async function askOne(model, signal) {
  const card = document.querySelector(`.answer[data-model="${CSS.escape(model.id)}"]`);
  const words = card.querySelector(".words");
  const thoughts = element("span", { class: "thoughts" });
  const text = document.createTextNode("");
  const started = performance.now();
  let firstToken = null;
  let usage = null;
  let reason = null;
  card.setAttribute("aria-busy", "true");
  card.classList.add("busy");
  words.classList.remove("placeholder");
  words.replaceChildren(thoughts, text);
  try {
    for await (const chunk of ask(requestBody(model.id), signal)) {
      const [choice] = chunk.choices ?? [];
      const thought = choice?.delta?.reasoning ?? choice?.delta?.reasoning_content;
      const piece = choice?.delta?.content;
      if (thought || piece) firstToken ??= performance.now();
      if (thought) thoughts.append(thought);
      if (piece) text.appendData(piece);
      reason = choice?.finish_reason ?? reason;
      usage = chunk.usage ?? usage;
    }
    if (!words.textContent) {
      words.classList.add("placeholder");
      words.textContent = "An empty answer.";
    }
    return { model, text: text.data };
  } catch (error) {
    if (error.name === "AbortError") {
      reason = "stopped";
      if (!words.textContent) {
        words.classList.add("placeholder");
        words.textContent = "Stopped.";
      }
      return { model, stopped: true };
    }
    showFailure(card, error);
    return { model, error };
  } finally {
    card.removeAttribute("aria-busy");
    card.classList.remove("busy");
    showTimings(card, { started, firstToken, usage, reason });
  }
}

// Whether a message has the field in it as a word, so that it need not be said once more.
function names(message, field) {
  const letter = /[\w.[\]]/;
  for (let at = message.indexOf(field); at >= 0; at = message.indexOf(field, at + 1)) {
    const isWhole = !letter.test(message[at - 1] ?? " ") && !letter.test(message[at + field.length] ?? " ");
    if (isWhole) return true;
  }
  return false;
}

function showFailure(card, error) {
  const words = card.querySelector(".words");
  if (!words.textContent) words.hidden = true;
  const field = error.param && !names(error.message, error.param) ? `${error.param}: ` : "";
  const code = error instanceof ApiError && error.code ? ` (${error.code})` : "";
  show(card.querySelector(".error"), `${field}${error.message}${code}`);
  blame(error);
  if (error.status === 401) openKeyDialog("The server does not accept this key.");
}

function showTimings(card, { started, firstToken, usage, reason }) {
  const rows = [];
  if (firstToken != null) rows.push(["First token", seconds(firstToken - started)]);
  rows.push(["Total", seconds(performance.now() - started)]);
  if (usage) rows.push(["Prompt", `${count(usage.prompt_tokens)} tokens`], ["Answer", `${count(usage.completion_tokens)} tokens`]);
  if (reason === "length") rows.push(["Ended", "cut at the longest answer"]);
  else if (reason === "stopped") rows.push(["Ended", "stopped"]);
  const list = card.querySelector(".timings");
  list.replaceChildren(...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  list.hidden = false;
}

function compare(answers, wasStopped) {
  const failed = answers.filter((answer) => answer.error);
  const whole = answers.filter((answer) => answer.text !== undefined);
  let line = "";
  if (whole.length > 1 && whole.length === answers.length) {
    const same = whole.every((answer) => answer.text.trim() === whole[0].text.trim());
    line = same ? "Both gave the same answer." : DIFFER;
    if (whole.length > 2 && same) line = `All ${whole.length} gave the same answer.`;
  }
  show(byId("verdict"), line);
  byId("verdict").classList.toggle("differ", line === DIFFER);
  if (wasStopped) say("Stopped.");
  else if (failed.length) say(`${failed.length} of ${answers.length} could not answer: ${failed[0].error.message}`);
  else say(`Answered. ${whole.map((answer) => `${answer.model.id}: ${answer.text}`).join(". ")}`);
}

// ---- theme

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  sessionStorage.setItem("vlmserve-theme", theme);
}

function nextTheme() {
  const order = ["system", "light", "dark"];
  const now = document.documentElement.dataset.theme ?? "system";
  setTheme(order[(order.indexOf(now) + 1) % order.length]);
}

// ---- wiring

byId("add-media").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", (event) => {
  addFiles([...event.target.files]);
  event.target.value = "";
});
byId("add-text").addEventListener("click", () => {
  const part = question.addText();
  byId(`${part.id}-text`).focus();
});
byId("drop").addEventListener("dragover", onDragOver);
byId("drop").addEventListener("dragleave", (event) => {
  if (!byId("drop").contains(event.relatedTarget)) byId("drop").classList.remove("over");
});
byId("drop").addEventListener("drop", onDrop);
// A file dropped beside the box would replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
document.addEventListener("paste", onPaste);
byId("ask").addEventListener("click", askAll);
byId("stop").addEventListener("click", () => running?.abort());
for (const id of ["system", "max-tokens", "temperature"]) byId(id).addEventListener("input", scheduleMeasure);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("key-dialog").open) {
    event.preventDefault();
    askAll();
  } else if (event.key === "Escape" && running) running.abort();
});
byId("key-open").addEventListener("click", () => openKeyDialog(""));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
});
byId("key-forget").addEventListener("click", () => useKey(""));
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("theme").addEventListener("click", nextTheme);

setTheme(sessionStorage.getItem("vlmserve-theme") ?? "system");
question.addText();
loadModels();
