// The page of `vitrail serve`: images in, ranked labels out, by the routes that everybody else uses.
//
// Read in this order: requests and the queue (two uploads at a time), what comes in (files, drops, the clipboard, the
// camera), the cards, the viewer with the map. Whatever is not ours (labels, file names, the server's sentences) enters
// the page as a text node. Nothing is stored: neither images nor the token outlive the page.

const AT_ONCE = 2;
const TOP = 5;
const MOST_IMAGES = 1000;
const MOST_CLASSES = 5000; // that are listed
const MOST_TRIES = 10; // of an image that a busy server refuses
const MOST_REDRAWN_BYTES = 100e6;
const MOST_REDRAWN_PIXELS = 16e6; // what a canvas can hold on a telephone
const SLOWEST_UPLOAD_S = 130; // the server gives up before

const $ = (id) => document.getElementById(id);
const items = [];
const jobs = [];
let model = null;
let token = null;
let running = 0;
let isTokenWanted = false;
let pausedUntil = 0;
let lastVersion = null; // of the model, in an answer

/** An element; children that are strings become text nodes. */
function make(tag, settings = {}, ...children) {
  const { on, ...rest } = settings;
  const element = Object.assign(document.createElement(tag), rest);
  if (on) element.addEventListener("click", on);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Text of strangers, kept apart from what stands beside it whatever its direction of writing. */
const foreign = (text) => make("bdi", {}, String(text));

function percent(share) {
  if (!(share >= 0 && share <= 1)) return "?";
  if (share >= 0.9995) return "> 99.9\u202f%";
  if (share < 0.0005) return "< 0.1\u202f%";
  return `${(100 * share).toFixed(1)}\u202f%`;
}

function bytes(count) {
  return count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} MB`;
}

/** A sentence of the server with its full stop; the style sheet gives it its capital. */
const ended = (sentence) => (/[.!?]$/.test(sentence) ? sentence : `${sentence}.`);

const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

// ---------------------------------------------------------------- requests

/** What went wrong, in a sentence, and what to do about it. */
class Failure extends Error {
  constructor(sentence, { advice = "", status = 0, retryAfter = null, id = "", token = null } = {}) {
    super(sentence);
    Object.assign(this, { advice, status, retryAfter, id, token });
  }

  get isBusy() {
    return this.status === 503 || this.status === 429;
  }

  /** Whether the same image may well be answered next time. */
  get isPassing() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }

  static of(response, answer, usedToken) {
    const text = (key) => (typeof answer?.[key] === "string" ? answer[key] : "");
    const wait = response.headers.get("Retry-After");
    const seconds = Number(wait ?? NaN);
    const isOfTheImage = response.status === 415 || response.status === 422; // `do` is for people who write programs
    return new Failure(text("error") || `The server answered with status ${response.status}.`, {
      advice: isOfTheImage ? text("got") : text("do"),
      status: response.status,
      retryAfter: Number.isFinite(seconds) ? seconds : wait ? (Date.parse(wait) - Date.now()) / 1000 : null,
      id: response.status >= 500 && !wait ? text("request_id") : "",
      token: usedToken,
    });
  }
}

/** The JSON that a route answers, or a Failure. */
async function request(route, { body, signal } = {}) {
  const own = new AbortController();
  const timer = setTimeout(() => own.abort(), 1000 * ((model?.limits?.timeout_seconds ?? 60) + SLOWEST_UPLOAD_S));
  const stop = () => own.abort();
  signal?.addEventListener("abort", stop);
  const usedToken = token;
  const headers = { Accept: "application/json", ...(token === null ? {} : { Authorization: `Bearer ${token}` }) };
  try {
    const settings = { method: body ? "POST" : "GET", body, headers, cache: "no-store", signal: own.signal };
    const response = await fetch(route, settings);
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw Failure.of(response, answer, usedToken);
    if (answer === null) throw new Failure("The server's answer cannot be read.", { status: 502 });
    return answer;
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw new Failure("The server does not answer.", { advice: "See whether it is still running, then try again." });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

/** Ask for what the page says of the model; later again while the server starts. */
async function loadModel() {
  const about = $("about");
  try {
    model = await request("model");
  } catch (failure) {
    if (failure.status === 401) return askForToken(failure);
    const again = make("button", { type: "button", on: loadModel }, "Try again");
    about.replaceChildren(foreign(failure.message), " ", failure.isBusy ? "The page asks again by itself." : again);
    if (failure.isBusy) setTimeout(loadModel, 1000 * Math.max(1, failure.retryAfter ?? 2));
    return;
  }
  const classes = Array.isArray(model.classes) ? model.classes : [];
  const size = model.preprocessing?.image_size ?? model.preprocessing?.decode_size;
  $("name").replaceChildren(foreign(model.name));
  document.title = `${model.name} - vitrail`;
  about.replaceChildren(
    counted(classes.length, "class", "classes"),
    Array.isArray(size) ? ` \u00b7 sees an image as ${size[1]}\u00a0\u00d7\u00a0${size[0]} pixels` : "",
    model.version ? make("span", {}, " \u00b7 version ", foreign(model.version)) : "",
    model.note ? make("strong", { className: "careful" }, "Careful: ", foreign(model.note)) : "",
  );
  const list = $("classes").querySelector("ul");
  list.replaceChildren();
  $("classes").hidden = classes.length === 0;
  $("classes").querySelector("summary").textContent = "Show the classes";
  $("classes").ontoggle = () => {
    if (list.childElementCount) return;
    list.append(...classes.slice(0, MOST_CLASSES).map((label) => make("li", {}, foreign(label))));
    if (classes.length > MOST_CLASSES) list.append(make("li", {}, `and ${classes.length - MOST_CLASSES} more`));
  };
  const most = model.limits?.max_body_bytes;
  $("accepted").textContent = `${anyFormat()}${most ? `, up to ${bytes(most)} each` : ""}.`;
  const types = (format) => [`image/${format.toLowerCase()}`, ...(format === "HEIC" ? [".heic", ".heif"] : [])];
  $("files").accept = readFormats().flatMap(types).join();
  items.forEach(frame);
  showSummary();
}

function askForToken(failure) {
  isTokenWanted = true;
  const wasRefused = token !== null;
  token = null;
  $("about").textContent = "";
  $("token").hidden = false;
  if (wasRefused) {
    $("token-help").textContent = ended(failure.message);
    $("token-help").className = "wrong";
    announce(failure.message);
  }
  $("token-field").focus();
}

$("token").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token-field").value.trim();
  $("token-field").value = "";
  $("token").hidden = true;
  isTokenWanted = false;
  $("choose").focus();
  showCommand();
  loadModel();
  pump();
});

// ---------------------------------------------------------------- the queue

/**
 * A request that waits for its turn.
 * @typedef {{ work: () => Promise<void>, begun: () => void, waits: (failure: Failure) => void,
 *             failed: (failure: Failure) => void, signal: AbortSignal, tries: number }} Job
 */

function enqueue(job, isUrgent = false) {
  if (isUrgent) jobs.unshift(job);
  else jobs.push(job);
  pump();
}

function pump() {
  while (running < AT_ONCE && jobs.length && !isTokenWanted && Date.now() >= pausedUntil) run(jobs.shift());
}

async function run(job) {
  if (job.signal.aborted) return;
  running += 1;
  job.begun();
  try {
    await job.work();
  } catch (error) {
    if (job.signal.aborted) return;
    const failure = error instanceof Failure ? error : new Failure("The page cannot show the answer.", { status: 502 });
    if (failure.status === 401) {
      jobs.unshift(job);
      job.waits(failure);
      if (failure.token === token) askForToken(failure);
    } else if (failure.isBusy && ++job.tries < MOST_TRIES) {
      jobs.unshift(job);
      pause(Math.max(1, failure.retryAfter ?? job.tries));
      job.waits(failure);
    } else job.failed(failure);
  } finally {
    running -= 1;
    pump();
  }
}

/** Leave the server alone for a while: it said so to one image, and means all. */
function pause(seconds) {
  pausedUntil = Math.max(pausedUntil, Date.now() + 1000 * Math.min(seconds, 600) + 200 * Math.random());
  setTimeout(pump, pausedUntil - Date.now() + 1);
}

const busyText = () => `The server is busy. Next try in ${Math.max(1, Math.ceil((pausedUntil - Date.now()) / 1000))} s.`;
setInterval(() => {
  for (const { answerBox, state, failure } of items) {
    if (state === "waiting" && failure?.isBusy) answerBox.querySelector(".state").textContent = busyText();
  }
}, 1000);

// ---------------------------------------------------------------- what comes in

function add(files) {
  const room = MOST_IMAGES - items.length;
  if (files.length > room) notify(`The page holds ${counted(MOST_IMAGES, "image", "images")}; the rest was left out.`);
  else if (files.length) dismiss();
  const added = files.slice(0, Math.max(0, room)).map((file) => ({
    file, state: "waiting", url: URL.createObjectURL(file), body: null, control: new AbortController(),
    answer: null, failure: null, map: null, isConverted: false, hasPreview: true, size: null,
  }));
  items.unshift(...added);
  $("list").prepend(...added.map(cardOf));
  added.forEach(submit);
  showSummary();
}

function submit(item) {
  enqueue({
    tries: 0,
    signal: item.control.signal,
    begun: () => become(item, "reading"),
    waits: (failure) => become(item, "waiting", { failure }),
    failed: (failure) => become(item, "failed", { failure }),
    work: async () => {
      item.body ??= await prepared(item);
      const answer = await request(`predict?top=${TOP}`, { body: item.body, signal: item.control.signal });
      const error = answer.errors?.[0];
      if (error) throw new Failure(String(error.error), { status: 422 });
      const [prediction] = answer.predictions ?? [];
      if (!Array.isArray(prediction?.top)) throw new Failure("The server's answer cannot be read.", { status: 502 });
      const version = answer.model?.version;
      if (lastVersion !== null && version !== lastVersion) loadModel(); // restarted with another model
      lastVersion = version ?? null;
      become(item, "done", { answer: { ...prediction, model: answer.model, seconds: answer.seconds }, failure: null });
    },
  });
}

const readFormats = () => model?.formats ?? ["JPEG", "PNG", "WebP", "GIF", "BMP"];
const anyFormat = () => new Intl.ListFormat("en-GB", { type: "disjunction" }).format(readFormats());

/** The format of an image by its first bytes; null: of none that is known here. */
async function formatOf(file) {
  const head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  const text = String.fromCharCode(...head);
  if (text.startsWith("\xff\xd8\xff")) return "JPEG";
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "WebP";
  if (text.startsWith("GIF8")) return "GIF";
  if (text.startsWith("BM") && text.slice(15, 18) === "\0\0\0") return "BMP";
  if (text.slice(4, 8) === "ftyp" && /avif|avis/.test(text)) return "AVIF";
  if (text.slice(4, 8) === "ftyp" && /hei[cxms]|hev[cx]|mif1|msf1/.test(text)) return "HEIC";
  if (/^(II\*\0|MM\0\*)/.test(text)) return "TIFF";
  return null;
}

/** The bytes to send; a Failure where the server would refuse them anyway. */
async function prepared(item) {
  const { file } = item;
  const advice = `Choose a ${anyFormat()} file.`;
  let format = null;
  try {
    if (file.size === 0) throw new Failure("The file is empty.", { advice, status: 422 });
    format = await formatOf(file);
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw new Failure("The browser cannot read the file.", { advice: "Was it moved or deleted? Choose it again." });
  }
  if (format === null) throw new Failure("This is not an image of a kind that the server reads.", { advice, status: 415 });
  let body = file;
  if (readFormats().includes(format)) body = new Blob([file], { type: `image/${format.toLowerCase()}` });
  else {
    body = await redrawn(item, format);
    item.isConverted = true;
  }
  const most = model?.limits?.max_body_bytes ?? Infinity;
  if (body.size > most) {
    throw new Failure(`The file has ${bytes(body.size)}; the server takes ${bytes(most)} at most.`, {
      advice: "Save it smaller: the model sees a small picture of it anyway.",
      status: 413,
    });
  }
  return body;
}

/** An image that the server does not read, as JPEG, where this browser can draw it. */
async function redrawn(item, format) {
  const image = new Image();
  image.src = item.url;
  try {
    if (item.file.size > MOST_REDRAWN_BYTES) throw new RangeError("too large");
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const most = Math.min(model?.limits?.max_pixels ?? Infinity, MOST_REDRAWN_PIXELS);
    const scale = Math.min(1, Math.sqrt(most / (width * height)));
    const canvas = make("canvas", { width: Math.floor(width * scale), height: Math.floor(height * scale) });
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
    if (blob === null) throw new RangeError("too large");
    return blob;
  } catch {
    throw new Failure(`This browser cannot read ${format} images, and the server does not either.`, {
      advice: "Save the image as JPEG, then choose it again.",
      status: 415,
    });
  }
}

const looksLikeImage = (file) => file.type.startsWith("image/") || /\.(hei[cf]|avif)$/i.test(file.name);

/** The files of a drop; of folders the images in them. */
async function filesOf(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].filter((one) => one.kind === "file").map((one) => one.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  const found = [];
  const walk = async (entry, isTop) => {
    if (found.length > MOST_IMAGES) return;
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      if (isTop || looksLikeImage(file)) found.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const one of some.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }))) await walk(one, false);
    }
  };
  for (const entry of entries) if (entry) await walk(entry, true);
  return found;
}

async function take(transfer) {
  const text = transfer.getData("text/uri-list") || transfer.getData("text/plain");
  let files = [];
  try {
    files = await filesOf(transfer);
  } catch {
    return notify("The browser cannot read what was dropped.");
  }
  if (files.length) return add(files);
  if (/^\s*(https?|ftp|file|data|blob):/i.test(text)) {
    return notify("That is a link, and nothing is fetched from the web here. Save the image, then drop the file.");
  }
  notify("There is no image in it.");
}

let depth = 0;
const isOwn = (event) => [...event.dataTransfer.types].some((type) => type === "Files" || type === "text/uri-list");
addEventListener("dragenter", (event) => {
  if (!isOwn(event)) return;
  event.preventDefault();
  depth += 1;
  $("veil").hidden = false;
});
addEventListener("dragover", (event) => isOwn(event) && event.preventDefault());
addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  $("veil").hidden = depth === 0;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("veil").hidden = true;
  closeDialogs();
  take(event.dataTransfer);
});
addEventListener("paste", (event) => {
  if (event.target.closest?.("input")) return;
  event.preventDefault();
  closeDialogs();
  take(event.clipboardData);
});
for (const input of [$("files"), $("photo")]) {
  input.addEventListener("change", () => {
    add([...input.files]);
    input.value = "";
  });
}
$("choose").addEventListener("click", () => $("files").click());

// ---------------------------------------------------------------- the camera

// A telephone has a better camera than a page can drive; elsewhere the browser gives one to secure pages only.
const isHandheld = matchMedia("(pointer: coarse)").matches;
const isLive = !isHandheld && isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
$("shoot").hidden = !isLive && !matchMedia("(any-pointer: coarse)").matches;
$("shoot").addEventListener("click", async () => {
  if (!isLive) return $("photo").click();
  const [dialog, video, text] = [$("camera"), $("video"), $("camera-text")];
  text.textContent = "The browser asks whether this page may use the camera.";
  $("snap").disabled = true;
  dialog.showModal();
  let stream = null;
  const stop = () => stream?.getTracks().forEach((track) => track.stop());
  dialog.onclose = () => {
    stop();
    video.srcObject = null;
  };
  try {
    const wanted = { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    if (!dialog.open) return stop();
    video.srcObject = stream;
    await video.play();
    text.textContent = "";
    $("snap").disabled = false;
    $("snap").focus();
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    text.textContent = denied
      ? "The browser does not allow this page to use the camera. Its settings for this page can change that."
      : "No camera was found, or another program is using it.";
  }
});
$("snap").addEventListener("click", () => {
  const video = $("video");
  const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    $("camera").close();
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
    if (blob) add([new File([blob], `camera ${time}.jpg`, { type: "image/jpeg" })]);
  }, "image/jpeg", 0.95);
});

// ---------------------------------------------------------------- cards

/** The card of an image in the list; the newest images come first. */
function cardOf(item) {
  const { name } = item.file;
  item.picture = make("span", { className: "picture" });
  item.picture.append(pictureOf(item));
  item.thumb = make("button", { type: "button", className: "thumb", on: () => view(item) }, item.picture);
  item.thumb.setAttribute("aria-label", `Enlarge ${name}`);
  item.title = make("h3", {}, make("bdi", { title: name }, name));
  item.answerBox = make("div", { className: "answer" });
  item.actions = make("div", { className: "row actions" });
  item.card = make("li", { className: "card" }, item.thumb,
    make("div", { className: "body" }, item.title, item.answerBox, item.actions));
  showBody(item);
  return item.card;
}

/** The image; what its size tells is filled in as soon as the browser knows it. */
function pictureOf(item) {
  const image = make("img", { alt: "", decoding: "async", loading: "lazy", draggable: false, src: item.url });
  image.addEventListener("load", () => {
    item.size = [image.naturalWidth, image.naturalHeight];
    frame(item);
    if (viewed === item) showViewer();
  });
  image.addEventListener("error", () => {
    image.parentElement?.style.setProperty("--ratio", 1.5);
    image.replaceWith(make("span", { className: "no-picture" }, "No preview"));
    item.hasPreview = false;
    showBody(item);
  });
  return image;
}

/** The part of an image that the model sees, in fractions of its sides; null where that is all of it, or not known. */
function seenPart([width, height]) {
  const { resize_mode: mode, decode_size: kept, resize_size: whole } = model?.preprocessing ?? {};
  if (!Array.isArray(kept)) return null;
  let scaled = whole ? [whole[1], whole[0]] : [kept[1], kept[0]];
  if (mode === "crop") {
    const scale = whole
      ? Math.min(...whole) / Math.min(width, height)
      : Math.max(kept[1] / width, kept[0] / height);
    scaled = [width * scale, height * scale];
  }
  const part = [Math.min(1, kept[1] / scaled[0]), Math.min(1, kept[0] / scaled[1])];
  return Math.min(...part) > 0.995 ? null : part;
}

/** Give a picture its shape, and the frame around what the model sees. */
function shape(picture, item) {
  if (!item.size) return;
  const [width, height] = item.size;
  picture.style.setProperty("--ratio", width / height);
  picture.classList.toggle("small", Math.max(width, height) <= 128);
  picture.querySelector(".seen")?.remove();
  const part = seenPart(item.size);
  if (part === null) return;
  const seen = make("span", { className: "seen" });
  place(seen, part);
  picture.append(seen);
}

function place(element, part) {
  const [width, height] = part ?? [1, 1];
  for (const [name, share] of [["left", (1 - width) / 2], ["top", (1 - height) / 2], ["width", width], ["height", height]]) {
    element.style[name] = `${100 * share}%`;
  }
}

const frame = (item) => shape(item.picture, item);

function become(item, state, changes = {}) {
  Object.assign(item, { state }, changes);
  showBody(item);
  showSummary();
  if (viewed === item) showViewer();
  if (state === "done") announce(`${item.file.name}: ${inWords(item.answer)}`);
  if (state === "failed") announce(`${item.file.name}: ${item.failure.message}`);
}

function inWords(answer) {
  const [first] = answer.top;
  if (answer.known === false) return `unknown, closest ${first?.label} ${percent(first?.probability)}`;
  return `${first?.label} ${percent(first?.probability)}`;
}

function showBody(item) {
  const hadFocus = item.actions.contains(document.activeElement);
  const plain = (text, on, name) => {
    const button = make("button", { type: "button", className: "plain", on }, text);
    button.setAttribute("aria-label", `${text}: ${name}`);
    return button;
  };
  const { name } = item.file;
  item.answerBox.replaceChildren(...answerOf(item));
  if (item.isConverted && !item.title.querySelector("span")) {
    item.title.append(make("span", { className: "mark-converted" }, "converted in the browser"));
  }
  const remove = plain("Remove", () => discard(item), name);
  remove.classList.add("remove");
  item.actions.replaceChildren(
    ...(item.state === "done" && model?.explain && item.hasPreview ? [plain("Explain", () => view(item, true), name)] : []),
    ...(item.state === "done" ? [plain("Copy JSON", (event) => copy(asJson(item), event.target), name)] : []),
    ...(item.state === "failed" && item.failure.isPassing ? [plain("Retry", () => retry(item), name)] : []),
    remove,
  );
  if (hadFocus) item.thumb.focus();
}

/** What is known of an image so far. */
function answerOf(item) {
  const { state, failure, answer } = item;
  if (state === "waiting") return [make("p", { className: "state" }, failure?.isBusy ? busyText() : "Waiting")];
  if (state === "reading") return [make("p", { className: "state is-reading" }, "Reading")];
  if (state === "failed") {
    return [make("div", { className: "failed" },
      make("p", {}, foreign(ended(failure.message))),
      failure.advice ? make("p", {}, foreign(ended(failure.advice))) : null,
      failure.id ? make("small", {}, "Request ", foreign(failure.id)) : null)];
  }
  const ranks = make("ol", { className: "ranks" }, ...answer.top.map(({ label, probability }) => {
    const fill = make("span");
    fill.style.setProperty("--share", `${100 * Math.min(1, Math.max(0, Number(probability) || 0))}%`);
    const bar = make("span", { className: "bar" }, fill);
    bar.setAttribute("aria-hidden", "true");
    const named = foreign(label);
    named.classList.toggle("is-long", String(label).length > 60);
    return make("li", {}, named, make("data", { value: String(probability) }, percent(probability)), bar);
  }));
  if (answer.known !== false) return [ranks];
  return [make("p", { className: "unknown" }, make("strong", {}, "Unknown"), "No class fits well enough. Closest:"), ranks];
}

function showSummary() {
  const count = (state) => items.filter((item) => item.state === state).length;
  const [done, failed, open] = [count("done"), count("failed"), count("waiting") + count("reading")];
  const parts = [
    open ? `${done} of ${items.length} read` : done || !failed ? counted(done, "image read", "images read") : "",
    failed ? `${failed} failed` : "",
  ];
  $("results").hidden = items.length === 0;
  document.body.classList.toggle("with-results", items.length > 0);
  $("summary").textContent = parts.filter(Boolean).join(", ");
  $("copy-all").hidden = done < 2;
  $("retry-all").hidden = items.filter((item) => item.state === "failed" && item.failure.isPassing).length < 2;
}

function retry(item) {
  become(item, "waiting", { failure: null });
  submit(item);
}

/** Take an image off the page; the focus goes to its neighbour. */
function discard(item) {
  const next = item.card.nextElementSibling ?? item.card.previousElementSibling;
  forget([item]);
  (next?.querySelector("button") ?? $("choose")).focus();
}

function forget(gone) {
  for (const item of gone) {
    item.control.abort();
    URL.revokeObjectURL(item.url);
    item.card.remove();
  }
  keep(items, (item) => !item.control.signal.aborted);
  keep(jobs, (job) => !job.signal.aborted);
  showSummary();
}

function keep(list, isKept) {
  list.splice(0, list.length, ...list.filter(isKept));
}

$("clear").addEventListener("click", () => {
  forget([...items]);
  dismiss();
  $("choose").focus();
});
$("retry-all").addEventListener("click", () => {
  items.filter((item) => item.state === "failed" && item.failure.isPassing).forEach(retry);
});
$("copy-all").addEventListener("click", (event) => {
  copy(items.filter((item) => item.state === "done").map(asJson), event.target);
});

const asJson = (item) => ({ file: item.file.name, ...item.answer });

async function copy(content, button) {
  const text = JSON.stringify(content, null, 2);
  let isCopied = false;
  try {
    await navigator.clipboard.writeText(text);
    isCopied = true;
  } catch {
    const area = make("textarea", { value: text, className: "unseen" }); // a page without TLS has no clipboard
    (button.closest("dialog") ?? document.body).append(area);
    area.select();
    isCopied = document.execCommand("copy");
    area.remove();
    button.focus();
  }
  if (!isCopied) return notify("The browser did not let the page copy.");
  const before = button.dataset.text ?? button.textContent;
  button.dataset.text = before;
  button.textContent = "Copied";
  announce("Copied.");
  setTimeout(() => (button.textContent = before), 2000);
}

// ---------------------------------------------------------------- the viewer and the map

let viewed = null;

function view(item, isMapWanted = false) {
  viewed = item;
  if (isMapWanted) $("map-on").checked = true;
  if (!$("viewer").open) $("viewer").showModal();
  showViewer();
}

function showViewer() {
  const item = viewed;
  const picture = $("picture");
  if (picture.dataset.url !== item.url) {
    picture.dataset.url = item.url;
    picture.style.removeProperty("--ratio");
    picture.replaceChildren(pictureOf(item));
  }
  shape(picture, item);
  $("viewer-title").replaceChildren(foreign(item.file.name));
  $("previous").hidden = $("next").hidden = items.length < 2;
  $("answer").replaceChildren(...answerOf(item));
  $("seen-text").hidden = !item.size || seenPart(item.size) === null;
  const seconds = Object.values(item.answer?.seconds ?? {}).reduce((sum, one) => sum + Number(one || 0), 0);
  $("details").textContent = [
    item.size ? `${item.size[0]} \u00d7 ${item.size[1]} pixels` : "",
    bytes(item.file.size),
    item.isConverted ? "converted in the browser" : "",
    seconds ? `${Math.max(1, Math.round(1000 * seconds))} ms on the server` : "",
  ].filter(Boolean).join(" \u00b7 ");
  $("copy-one").hidden = item.state !== "done";
  $("map").hidden = item.state !== "done" || !model?.explain || !item.hasPreview;
  showMap(item);
}

/** Draw the map of an image, or ask the server for it first. */
function showMap(item) {
  const isOn = $("map-on").checked && !$("map").hidden;
  const picture = $("picture");
  picture.querySelector("canvas")?.remove();
  picture.classList.toggle("mapped", isOn && Boolean(item.map?.values));
  $("map-controls").hidden = !isOn;
  $("map-scale").hidden = !item.map?.values;
  if (!isOn) return;
  item.map ??= askForMap(item);
  const text = $("map-text");
  text.className = item.map.failure ? "failed" : item.map.values ? "" : "state is-reading";
  if (item.map.failure) text.replaceChildren(foreign(item.map.failure.message), " ", foreign(item.map.failure.advice));
  else if (!item.map.values) text.textContent = item.map.wait || "Making the map";
  else {
    const canvas = drawn(item.map);
    place(canvas, item.size && seenPart(item.size));
    const { isSigned } = item.map;
    picture.querySelector("img, .no-picture").after(canvas);
    const claim = isSigned ? "What spoke for and against \u201c" : "What spoke for \u201c";
    text.replaceChildren(claim, foreign(item.map.label), "\u201d.");
    document.querySelector(".scale").classList.toggle("signed", isSigned);
    const [low, high] = document.querySelectorAll(".scale-ends span");
    [low.textContent, high.textContent] = isSigned ? ["against", "for"] : ["little", "much"];
  }
}

function askForMap(item) {
  const map = { label: "", grid: null, values: null, failure: null, wait: "", isSigned: false };
  const changed = () => viewed === item && $("viewer").open && showMap(item);
  enqueue({
    tries: 0,
    signal: item.control.signal,
    begun: () => (map.wait = ""),
    waits: (failure) => {
      map.wait = failure.isBusy ? "The server is busy. The page tries again by itself." : "";
      changed();
      if (!failure.isBusy) $("viewer").close();
    },
    failed: (failure) => {
      map.failure = failure;
      changed();
      if (failure.isPassing) item.map = null; // asked for again when the switch is
    },
    work: async () => {
      const { label, grid, values } = await request("explain", { body: item.body, signal: item.control.signal });
      const isWhole = Array.isArray(values) && grid?.length === 2 && values.length === grid[0] * grid[1] && values.length > 0;
      if (!isWhole || !values.every(Number.isFinite)) throw new Failure("The server's map cannot be read.", { status: 502 });
      Object.assign(map, { label, grid, ...normalised(values) });
      changed();
    },
  }, true);
  return map;
}

/** Values divided by the 99th percentile of their size, as in the sheets of `vitrail explain`: one patch of many does
 * not take the colour from all others. Signed where some speak clearly against. */
function normalised(values) {
  const sizes = values.map(Math.abs).sort((a, b) => a - b);
  const place = 0.99 * (sizes.length - 1);
  const low = sizes[Math.floor(place)];
  const largest = Math.max(low + (place % 1) * (sizes[Math.ceil(place)] - low), 1e-3 * sizes.at(-1), 1e-30);
  const isSigned = Math.min(...values) < -0.05 * largest;
  return { isSigned, values: values.map((value) => Math.min(1, Math.max(isSigned ? -1 : 0, value / largest))) };
}

const CIVIDIS = [[0, 34, 78], [42, 63, 109], [87, 93, 109], [125, 124, 120], [165, 156, 116], [210, 192, 96], [254, 232, 56]];

/** The map as it lies over an image in grey: a pixel for each of its cells, the more opaque, the more it says. */
function drawn({ grid: [rows, columns], values, isSigned }) {
  const canvas = make("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  values.forEach((value, i) => {
    if (isSigned) {
      pixels.data.set([...(value < 0 ? [43, 116, 179] : [217, 104, 16]), 255 * Math.abs(value) ** 0.8], 4 * i);
      return;
    }
    const at = value * (CIVIDIS.length - 1);
    const [one, two] = [CIVIDIS[Math.floor(at)], CIVIDIS[Math.ceil(at)]];
    pixels.data.set([...one.map((part, c) => part + (at % 1) * (two[c] - part)), 255 * (0.6 + 0.4 * value)], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function step(by) {
  const at = items.indexOf(viewed);
  if (at >= 0) view(items[(at + by + items.length) % items.length]);
}

$("map-on").addEventListener("change", () => {
  if (viewed.map?.failure) viewed.map = null;
  showMap(viewed);
});
const strengthen = () => $("picture").style.setProperty("--strength", $("strength").value / 100);
$("strength").addEventListener("input", strengthen);
strengthen();
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("copy-one").addEventListener("click", (event) => copy(asJson(viewed), event.target));
$("viewer").addEventListener("keydown", (event) => {
  if (event.target.type === "range" || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
$("viewer").addEventListener("close", () => {
  const last = viewed;
  viewed = null;
  $("map-on").checked = false;
  $("picture").replaceChildren();
  delete $("picture").dataset.url;
  if (last && items.includes(last)) last.thumb.focus();
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // the backdrop
}

function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

// ---------------------------------------------------------------- messages

let told = [];
let telling = null;

/** Say something to a screen reader, politely; of many images at once only how many are done. */
function announce(sentence) {
  told.push(sentence);
  telling ??= setTimeout(() => {
    $("live").textContent = told.length > 3 ? $("summary").textContent : told.join(". ");
    told = [];
    telling = null;
  }, 600);
}

function notify(sentence) {
  $("notice").querySelector("p").textContent = sentence;
  $("notice").hidden = false;
  announce(sentence);
}

function dismiss() {
  $("notice").hidden = true;
}

$("notice").querySelector("button").addEventListener("click", dismiss);
addEventListener("keydown", (event) => event.key === "Escape" && dismiss());

function showCommand() {
  const header = token === null ? "" : '-H "Authorization: Bearer $TOKEN" ';
  $("curl").textContent = `curl ${header}--data-binary @photo.jpg ${new URL("predict", document.baseURI)}`;
}

// ---------------------------------------------------------------- at the start

showCommand();
loadModel();
