"use strict";
// The flip gallery. Every text is set as text, never as markup; cards and pictures are made when
// they come near the window, so that thousands of samples open at once.
(() => {
  const BATCH = 30;
  const MOST_PRINTED = 300;
  const TINY_PX = 96;
  const LONG = 120;
  const THEMES = ["system", "light", "dark"];
  const byId = (id) => document.getElementById(id);

  const element = (name, classes, text) => {
    const made = document.createElement(name);
    if (classes) made.className = classes;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // --- light and dark ---------------------------------------------------------------------------
  const themeButton = byId("theme");
  const showTheme = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    themeButton.textContent = `Theme: ${theme}`;
  };
  const remembered = () => {
    // Browsers may refuse storage to files.
    try { return localStorage.getItem("vlmserve-theme"); } catch { return null; }
  };
  let theme = THEMES.includes(remembered()) ? remembered() : "system";
  showTheme(theme);
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    showTheme(theme);
    try { localStorage.setItem("vlmserve-theme", theme); } catch { /* for this visit only */ }
  });

  const list = byId("cards");
  if (!list) return;

  // --- data -------------------------------------------------------------------------------------
  const { cards, media } = JSON.parse(byId("data").textContent);
  const form = byId("filters"), search = byId("search"), task = byId("task");
  const tasks = Array.from(task.options, (option) => option.text).slice(1);
  const haystacks = cards.map((card) => [
    card.id, tasks[card.task], card.question, card.target, card.error,
    card.baseline && card.baseline[0], card.candidate && card.candidate[0],
  ].filter(Boolean).join("\n").toLowerCase());

  let matches = cards.map((_, index) => index);
  let current = -1;

  // --- one card ---------------------------------------------------------------------------------
  const pictures = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) loadPictures(entry.target);
  }, { rootMargin: "600px" });

  const loadPictures = (card) => {
    let waiting = false;
    for (const image of card.querySelectorAll("img:not([src])")) {
      const source = byId(`thumbnail-${image.dataset.thumbnail}`);
      if (source) image.src = source.textContent;
      else waiting = true;
    }
    // Pictures stand at the end of the file, which may still be read.
    if (!waiting) pictures.unobserve(card);
  };

  const showText = (place, text) => {
    if (text) place.textContent = text;
    else place.append(element("span", "empty", text === "" ? "(empty)" : "(none)"));
  };

  const showQuestion = (place, card) => {
    const pieces = card.question.split(/<(image|video)>/);
    const marks = pieces.filter((_, index) => index % 2);
    // The question is the last turn; media of turns before it come first.
    const first = card.media.length - marks.length;
    const fits = marks.every((kind, index) => media[card.media[first + index]]?.kind === kind);
    if (!fits) return showText(place, card.question);
    let number = first;
    pieces.forEach((piece, index) => {
      if (index % 2) place.append(element("span", "chip", label(card, number++)));
      else if (piece) place.append(piece);
    });
  };

  const label = (card, number) => {
    const { kind } = media[card.media[number]];
    const alike = card.media.filter((place) => media[place].kind === kind);
    if (alike.length === 1) return kind;
    const before = card.media.slice(0, number).filter((place) => media[place].kind === kind);
    return `${kind} ${before.length + 1}`;
  };

  const picture = (place, [width, height], alt) => {
    const image = element("img");
    const times = Math.max(1, Math.ceil(TINY_PX / Math.max(width, height)));
    if (times > 1) image.className = "tiny";
    image.width = width * times;
    image.height = height * times;
    image.alt = alt;
    image.decoding = "async";
    image.dataset.thumbnail = place;
    return image;
  };

  const figure = (card, number) => {
    const medium = media[card.media[number]], made = element("figure"), name = label(card, number);
    if (medium.thumbnails.length === 0) {
      made.append(element("div", "gone", `${name}: ${medium.missing}`));
    } else if (medium.kind === "video") {
      const frames = element("div", "frames");
      medium.thumbnails.forEach((thumbnail, index) => {
        const frame = element("div");
        frame.append(picture(medium.first + index, thumbnail, `${name} at ${thumbnail[2]}`));
        frame.append(element("span", "", thumbnail[2]));
        frames.append(frame);
      });
      made.append(frames);
    } else {
      made.append(picture(medium.first, medium.thumbnails[0], name));
    }
    made.append(element("figcaption", "", [name, medium.size].filter(Boolean).join(" · ")));
    made.title = medium.type;
    return made;
  };

  const row = (table, name, text, score, classes) => {
    table.append(element("dt", "", score === undefined ? name : `${name}, score ${score}`));
    const value = element("dd", classes), shown = element("bdi");
    if (text.length > LONG) value.classList.add("long");
    showText(shown, text);
    value.append(shown);
    table.append(value);
  };

  const create = (place) => {
    const card = cards[matches[place]];
    const item = element("li"), article = element("article", `card k-${card.kind}`);
    article.tabIndex = place === Math.max(current, 0) ? 0 : -1;
    article.dataset.place = place;
    article.setAttribute("aria-label", `${card.kind}, ${tasks[card.task]}, sample ${card.id}`);
    const head = element("p", "head");
    head.append(element("span", "badge", card.kind), element("strong", "", tasks[card.task]));
    head.append(element("code", "", card.id));
    const body = element("div", "body"), texts = element("div", "texts"), table = element("dl");
    if (card.media.length) {
      const shown = element("div", "media");
      shown.append(...card.media.map((_, number) => figure(card, number)));
      body.append(shown);
    }
    table.append(element("dt", "", "question"));
    const value = element("dd"), question = element("bdi");
    showQuestion(question, card);
    value.append(question);
    table.append(value);
    row(table, "target", card.target);
    if (card.error === undefined) {
      row(table, "baseline", ...card.baseline, `answer ${card.kind === "better" ? "lost" : "won"}`);
      row(table, "candidate", ...card.candidate, `answer ${card.kind === "better" ? "won" : "lost"}`);
    } else {
      row(table, `failed on the ${card.side}`, card.error, undefined, "lost");
    }
    texts.append(table);
    body.append(texts);
    article.append(head, body);
    item.append(article);
    pictures.observe(article);
    return item;
  };

  // --- the list ---------------------------------------------------------------------------------
  const extend = (size) => {
    const made = document.createDocumentFragment();
    const end = Math.min(matches.length, size);
    for (let place = list.children.length; place < end; place++) made.append(create(place));
    list.append(made);
  };

  const nearEnd = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    if (list.children.length >= matches.length) return;
    extend(list.children.length + BATCH);
    // Says again whether the end is near, for a window higher than a batch.
    nearEnd.unobserve(byId("more"));
    nearEnd.observe(byId("more"));
  }, { rootMargin: "800px" });

  const kind = () => form.elements.kind.value;

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    matches = [];
    cards.forEach((card, index) => {
      if (task.value !== "" && card.task !== Number(task.value)) return;
      if (kind() && card.kind !== kind()) return;
      if (words.every((word) => haystacks[index].includes(word))) matches.push(index);
    });
    current = -1;
    pictures.disconnect();
    list.replaceChildren();
    extend(BATCH);
    const total = cards.length.toLocaleString("en");
    byId("count").textContent = `${matches.length.toLocaleString("en")} of ${total}`;
    byId("none").hidden = matches.length > 0;
    nearEnd.unobserve(byId("more"));
    nearEnd.observe(byId("more"));
  };

  const reset = () => {
    search.value = "";
    task.value = "";
    form.elements.kind.value = "";
    apply();
  };

  const at = (place) => list.children[place]?.firstElementChild;

  const choose = (place) => {
    if (place < 0 || place >= matches.length) return;
    if (place >= list.children.length) extend(place + BATCH);
    const before = at(Math.max(current, 0));
    if (before) before.tabIndex = -1;
    current = place;
    at(place).tabIndex = 0;
    at(place).focus({ preventScroll: true });
    at(place).scrollIntoView({ block: "nearest" });
  };

  list.addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (card) current = Number(card.dataset.place);
  });

  // --- keyboard and filters -----------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const { key, target } = event;
    if (key === "Escape") {
      if (target === search) search.blur();
      if (search.value || task.value || kind()) reset();
      return;
    }
    if (target.closest?.("input, select, textarea")) {
      if (target === search && (key === "Enter" || key === "ArrowDown")) {
        event.preventDefault();
        choose(0);
      }
      return;
    }
    const onCard = target.closest?.(".card") !== null && target.closest !== undefined;
    let place = null;
    if (key === "/") {
      event.preventDefault();
      search.focus();
      search.select();
      return;
    }
    if (key === "j" || (onCard && (key === "ArrowDown" || key === "ArrowRight"))) place = current + 1;
    if (key === "k" || (onCard && (key === "ArrowUp" || key === "ArrowLeft"))) place = current - 1;
    if (onCard && key === "Home") place = 0;
    if (onCard && key === "End") place = matches.length - 1;
    if (place === null) return;
    event.preventDefault();
    choose(place);
  });

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", apply);
  search.addEventListener("input", apply);
  for (const link of document.querySelectorAll("a[data-kind]")) {
    link.addEventListener("click", () => {
      search.value = "";
      task.value = link.dataset.task;
      form.elements.kind.value = link.dataset.kind;
      apply();
    });
  }

  // --- print --------------------------------------------------------------------------------------
  window.addEventListener("beforeprint", () => {
    extend(MOST_PRINTED);
    for (const card of list.querySelectorAll(".card")) loadPictures(card);
    const n = list.children.length, said = byId("printed");
    said.textContent = `Printed: ${n.toLocaleString("en")} of ${cards.length.toLocaleString("en")} samples.`;
    said.hidden = n === cards.length;
  });
  window.addEventListener("afterprint", () => { byId("printed").hidden = true; });

  // Pictures of the first cards may have been asked for before the end of the file was read.
  document.addEventListener("DOMContentLoaded", () => {
    for (const card of list.querySelectorAll(".card")) { pictures.unobserve(card); pictures.observe(card); }
  });

  byId("unscripted").hidden = true;
  form.hidden = false;
  apply();
})();
