// The question: text, images and videos in the order in which the model reads them.

let lastId = 0;

export class Question {
  constructor(onChange) {
    this.parts = [];
    this.onChange = onChange;
  }

  addText(text = "", at = this.parts.length) {
    return this.#insert({ kind: "text", text }, at);
  }

  // Media go before the text that ends the question, where people put them.
  async addFile(file) {
    const kind = file.type.startsWith("video/") ? "video" : "image";
    const part = { kind, name: file.name || `pasted ${kind}`, size: file.size };
    part.url = await readDataUrl(file);
    const last = this.parts.at(-1);
    return this.#insert(part, last?.kind === "text" ? this.parts.length - 1 : this.parts.length);
  }

  #insert(part, at) {
    part.id = `part-${(lastId += 1)}`;
    this.parts.splice(at, 0, part);
    this.onChange();
    return part;
  }

  remove(part) {
    this.parts = this.parts.filter((other) => other !== part);
    if (this.parts.length === 0) this.addText();
    else this.onChange();
  }

  move(part, to) {
    const from = this.parts.indexOf(part);
    const place = Math.max(0, Math.min(to, this.parts.length - 1));
    if (from < 0 || from === place) return false;
    this.parts.splice(from, 1);
    this.parts.splice(place, 0, part);
    this.onChange();
    return true;
  }

  // What is sent: empty texts are left out.
  get sent() {
    return this.parts.filter((part) => part.kind !== "text" || part.text.trim());
  }

  get isEmpty() {
    return this.sent.length === 0;
  }

  messages(system) {
    const content = this.sent.map(toContent);
    const user = { role: "user", content };
    return system.trim() ? [{ role: "system", content: system }, user] : [user];
  }

  // The part that a field of the request, such as messages[0].content[2].image_url, is about.
  partAt(field) {
    const match = /^messages\[\d+\]\.content\[(\d+)\]/.exec(field ?? "");
    return match ? this.sent[Number(match[1])] : undefined;
  }
}

function toContent(part) {
  if (part.kind === "text") return { type: "text", text: part.text };
  const type = `${part.kind}_url`;
  return { type, [type]: { url: part.url } };
}

function readDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name} cannot be read.`)));
    reader.readAsDataURL(file);
  });
}
