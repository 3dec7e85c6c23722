"use strict";
// The page: takes a clip, asks POST /v1/attack beside it, and shows, draws and plays what comes back.
// It asks nobody else, and keeps nothing but the token of a service that wants one (in this tab).

const COLUMNS = ["original", "attacked", "purified"];
const RANGE_DB = 70; // from the loudest cell of all pictures down to the darkest colour
const CHANGE_DB = 20; // a change of this much has the full colour
const RAMP = [[10, 12, 28], [38, 42, 110], [74, 95, 193], [134, 171, 235], [242, 246, 255]];
const WHO = {
  none: "nobody (the clip as it is)",
  oblivious: "the recogniser only",
  adaptive: "the recogniser and the purifier",
};
const NO_CLIP = "There is no clip yet: drop a file, record one, or take an example.";
const LOST = "The service cannot be reached; see whether it still runs, and try again.";

const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const chosen = (name) => find(`input[name=${name}]:checked`).value;
const percent = (share) => `${Math.round(100 * share)} %`;

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---- the service ------------------------------------------------------------------------------

class Refused extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

let limits = { max_bytes: Infinity, attack_seconds: 8 };

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ code: "unreachable", message: LOST });
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: { code: "unreachable", message: LOST } }));
  throw new Refused(error);
}

async function* lines(answer) {
  let text = "";
  for await (const part of chunks(answer.body.pipeThrough(new TextDecoderStream()))) {
    const whole = (text + part).split("\n");
    text = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (let part; !(part = await reader.read()).done; ) yield part.value;
}

// ---- refusals, beside what they concern -------------------------------------------------------

function refuse(place, sentence = "") {
  find(`#${place}-error`).textContent = sentence;
}

function told(error) {
  if (error.name === "AbortError") return;
  const ofClip = ["empty", "damaged", "too_large", "too_long", "too_short", "not_sound", "silent", "joined",
    "not_finite", "too_loud", "bad_rate", "length_unknown", "too_many_channels", "too_slow_to_decode",
    "not_audio_type"];
  if (error.code === "unauthorised") signIn(sessionStorage.getItem("token") !== null);
  else refuse(ofClip.includes(error.code) ? "clip" : "go", error.message);
}

// ---- who may ask ------------------------------------------------------------------------------

function signIn(wrong) {
  sessionStorage.removeItem("token");
  find("#sign-in").hidden = false;
  find("#setup").hidden = true;
  refuse("token", wrong ? "The service does not know this token; give another one." : "");
  find("#token").focus();
}

find("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", find("#token").value.trim());
  begin();
});

async function begin() {
  try {
    limits = await (await ask("../v1/models")).json();
  } catch (error) {
    told(error);
    return;
  }
  find("#sign-in").hidden = true;
  find("#setup").hidden = false;
  find("#longest").textContent = limits.attack_seconds;
  find("#networks").replaceChildren(...["recogniser", "purifier"].flatMap((role) => {
    const { name, architecture, datasets, speakers, licence } = limits[role];
    const trained = datasets
      ? `trained on ${datasets.join(", ")}${speakers ? ` (${speakers} speakers)` : ""}`
      : "what it was trained on is not stated";
    const terms = licence ? `licence ${licence}` : "no licence stated";
    const kind = architecture ? ` (${architecture})` : "";
    return [make("dt", {}, role[0].toUpperCase() + role.slice(1)), make("dd", {}, `${name}${kind}, ${trained}; ${terms}`)];
  }));
}

// ---- the clip ---------------------------------------------------------------------------------

let clip = null;

function take(blob, name, pressed = null) {
  if (recorder && pressed !== find("#record")) recorder.stop(); // what it recorded is not wanted any more
  refuse("clip");
  all("#examples button").forEach((each) => each.setAttribute("aria-pressed", each === pressed));
  if (blob.size > limits.max_bytes) {
    refuse("clip", `The file has ${(blob.size / 1e6).toFixed(1)} MB, expected at most ${(limits.max_bytes / 1e6).toFixed(1)} MB.`);
    return;
  }
  clip = blob;
  trials = {};
  find("#results").hidden = true;
  find("#clip-name").textContent = name;
  player.pause();
  run("none");
}

find("#file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) take(file, file.name);
  event.target.value = ""; // the same file may be chosen again
});

find("#examples").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { example } = button.dataset;
  try {
    const blob = await (await ask(`${example}.flac`)).blob();
    const who = example === "reader" ? "a volunteer of LibriVox reads" : `a synthetic voice, meant to sound ${example}`;
    take(blob, `Example: ${who}`, button);
  } catch (error) {
    told(error);
  }
});

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault(); // elsewhere the browser would leave the page for the file
    find("#drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind !== "drop") return;
    const { files } = event.dataTransfer;
    if (files.length === 1) take(files[0], files[0].name);
    else refuse("clip", files.length ? "These are several files; drop one." : "This is no file; drop a sound file.");
  });
}

let recorder = null;

find("#record").addEventListener("click", async () => {
  if (recorder) {
    recorder.stop();
    return;
  }
  refuse("clip");
  let stream;
  try {
    if (!navigator.mediaDevices) throw new Error("browsers allow it on localhost and over HTTPS only");
    stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false } });
  } catch (error) {
    refuse("clip", `The microphone cannot be used (${error.message.replace(/\.$/, "")}); allow it, or choose a file.`);
    return;
  }
  const parts = [];
  const mine = (recorder = new MediaRecorder(stream));
  const until = performance.now() + 1000 * limits.attack_seconds - 300;
  const ticking = setInterval(() => {
    const left = Math.ceil((until - performance.now()) / 1000);
    if (left <= 0) mine.stop();
    else find("#record").textContent = `Stop (${left} s left)`;
  }, 100);
  mine.ondataavailable = (event) => parts.push(event.data);
  mine.onstop = async () => {
    clearInterval(ticking);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    find("#record").textContent = "Record";
    find("#record").setAttribute("aria-pressed", false);
    try {
      const sound = await player.context.decodeAudioData(await new Blob(parts).arrayBuffer());
      take(wavOf(sound), "Your recording", find("#record"));
    } catch {
      refuse("clip", "The recording holds no sound; record for a little longer.");
    }
  };
  mine.start();
  find("#record").setAttribute("aria-pressed", true);
});

// Browsers record into containers of their own (WebM, MP4); the service takes WAV from all of them.
function wavOf(sound) {
  const samples = sound.getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const write = (place, letters) => [...letters].forEach((each, i) => view.setUint8(place + i, each.charCodeAt(0)));
  const numbers = [[16, 4, 16], [20, 2, 1], [22, 2, 1], [24, 4, sound.sampleRate], [28, 4, 2 * sound.sampleRate],
    [32, 2, 2], [34, 2, 16], [40, 4, 2 * samples.length], [4, 4, 36 + 2 * samples.length]];
  write(0, "RIFF");
  write(8, "WAVEfmt ");
  write(36, "data");
  for (const [place, size, value] of numbers) view[size === 4 ? "setUint32" : "setUint16"](place, value, true);
  samples.forEach((each, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(32768 * each))), true));
  return new Blob([view], { type: "audio/wav" });
}

// ---- attacks ----------------------------------------------------------------------------------

let trials = {}; // by what the attacker knows
let running = null;

async function run(method) {
  if (!clip) {
    refuse("clip", NO_CLIP);
    find("#clip-part").focus();
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  const parts = method === "none" ? 1 : 3;
  let done = 0;
  const stage = () => {
    const words = done === 0 ? "Listening to the clip …"
      : done === 1 ? "Two attackers are at work …"
      : "One attacker is done, the other still at work …";
    find("#stage").textContent = words;
    find("#progress").value = done;
    find("#progress").max = parts;
    find("#progress").hidden = false;
  };
  refuse("go");
  refuse("clip");
  stage();
  const fresh = {};
  try {
    const query = new URLSearchParams({ method, snr_db: find("#strength").value });
    const answer = await ask(`../v1/attack?${query}`, {
      method: "POST",
      body: clip,
      headers: { "Content-Type": "application/octet-stream" },
      signal: mine.signal,
    });
    for await (const trial of lines(answer)) {
      if (trial.error) throw new Refused(trial.error);
      fresh[trial.knowledge] = await withSounds(trial);
      if (mine.signal.aborted) return;
      done += 1;
      stage();
    }
    if (done < parts) throw new Refused({ code: "unreachable", message: LOST });
    // What an attacker gets who does not know the purifier is shown beside who does, never alone.
    trials = fresh;
    show();
    find("#stage").textContent = "";
  } catch (error) {
    if (error.name === "AbortError") return;
    find("#stage").textContent = "";
    told(error);
  } finally {
    if (running === mine) {
      running = null;
      find("#progress").hidden = true;
    }
  }
}

async function withSounds(trial) {
  for (const each of [trial.given, trial.purified]) {
    const bytes = Uint8Array.from(atob(each.sound), (letter) => letter.charCodeAt(0));
    each.file = new Blob([bytes], { type: "audio/wav" });
    each.buffer = await player.context.decodeAudioData(bytes.buffer);
    const cells = Uint8Array.from(atob(each.spectrogram.tenths_db), (letter) => letter.charCodeAt(0));
    each.decibels = Float32Array.from(new Int16Array(cells.buffer), (tenths) => tenths / 10);
  }
  return trial;
}

find("#setup").addEventListener("submit", (event) => {
  event.preventDefault();
  run(chosen("method"));
});
find("#strength").addEventListener("input", (event) => {
  find("#strength-value").textContent = `${event.target.value} dB`;
});
// Once a clip was attacked, a changed attack is heard without another press.
find("#setup").addEventListener("change", (event) => {
  const ofAttack = event.target.name === "method" || event.target.id === "strength";
  if (ofAttack && clip && (trials.oblivious || running)) run(chosen("method"));
});

// ---- what came of it --------------------------------------------------------------------------

function show() {
  const trial = trials[chosen("knowledge")];
  const sounds = {
    original: trials.none.given,
    attacked: trial?.given,
    purified: (trial ?? trials.none).purified,
  };
  find("#results").hidden = false;
  find("#attacker").hidden = !trial;
  find("#attackers").hidden = false;
  verdict(trial);
  table();
  const top = Math.max(...Object.values(sounds).flatMap((each) => (each ? [loudest(each.decibels)] : [])));
  COLUMNS.forEach((name) => column(name, sounds[name], sounds.original, top));
  player.load(Object.fromEntries(COLUMNS.map((name) => [name, sounds[name]?.buffer])));
}

const loudest = (decibels) => decibels.reduce((a, b) => Math.max(a, b), -Infinity);
const named = ({ label, probabilities }) => [make("b", {}, label), ` (${percent(probabilities[label])})`];

function verdict(trial) {
  const { given: original, purified } = trials.none;
  const said = find("#verdict");
  if (!trial) {
    const kept = purified.label === original.label;
    said.replaceChildren("Without an attack the clip is heard as ", ...named(original), ". Purified, it ",
      kept ? "stays " : "costs something here: it becomes ", ...named(purified), ".");
    return;
  }
  const moved = trial.given.label !== original.label;
  const held = trial.purified.label === original.label;
  const other = trials[trial.knowledge === "oblivious" ? "adaptive" : "oblivious"];
  said.replaceChildren(
    ...(moved ? ["The attack turns ", ...named(original), " into ", ...named(trial.given)]
      : ["The bare recogniser still hears ", ...named(original)]),
    ". Behind the purifier it is ", ...named(trial.purified), held ? ". " : ": not given back. ",
    `The attacker who knows ${WHO[other.knowledge]} gets `, ...named(other.purified), " behind it.",
  );
}

function table() {
  const labels = all("#attackers thead th").map((each) => each.textContent);
  const rows = ["none", "oblivious", "adaptive"].filter((each) => trials[each]).map((knowledge) => {
    const { given, purified, residual, snr_db } = trials[knowledge];
    const ratio = knowledge === "none" ? "–" : snr_db === null ? "no change" : `${snr_db.toFixed(1)} dB`;
    const row = make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, WHO[knowledge]));
    [[ratio], named(given), named(purified), [residual.toFixed(4)]].forEach((cell, i) => {
      row.append(make("td", { role: "cell", "data-label": labels[i + 1] }, ...cell));
    });
    row.classList.toggle("chosen", knowledge === chosen("knowledge"));
    return row;
  });
  find("#attackers tbody").replaceChildren(...rows);
}

function column(name, heard, original, top) {
  const article = find(`#column-${name}`);
  find(`input[name=heard][value=${name}]`).disabled = !heard;
  article.hidden = !heard;
  if (!heard) return;
  find(".answer", article).textContent = heard.label;
  find(".classes", article).replaceChildren(...Object.entries(heard.probabilities).map(([label, share]) => {
    const length = make("span");
    length.style.width = `${100 * share}%`;
    const line = make("li", {}, make("span", {}, label), make("span", { class: "bar", "aria-hidden": true }, length),
      make("span", { class: "share" }, percent(share)));
    line.classList.toggle("top", label === heard.label);
    return line;
  }));
  draw(find(".spectrogram", article), heard.spectrogram, levels(heard, top),
    `Spectrogram of the ${name} sound, heard as ${heard.label}`);
  if (name !== "original") {
    draw(find(".difference", article), heard.spectrogram, changes(heard, original, top),
      `What is louder and quieter in the ${name} sound than in the original`);
  }
  const save = find(".save", article);
  URL.revokeObjectURL(save.href);
  save.href = URL.createObjectURL(heard.file);
  save.download = `${name}.wav`;
}

// ---- pictures ---------------------------------------------------------------------------------

function levels({ decibels }, top) {
  return (cell) => {
    const share = Math.max(0, Math.min(1, 1 + (decibels[cell] - top) / RANGE_DB)) * (RAMP.length - 1);
    const step = Math.min(RAMP.length - 2, Math.floor(share));
    return [...RAMP[step].map((low, i) => low + (share - step) * (RAMP[step + 1][i] - low)), 255];
  };
}

// Below the darkest colour nothing is seen, so nothing differs.
function changes(heard, original, top) {
  const floor = top - RANGE_DB;
  const [louder, quieter] = ["--louder", "--accent"].map(colour);
  return (cell) => {
    const change = Math.max(floor, heard.decibels[cell]) - Math.max(floor, original.decibels[cell]);
    return [...(change > 0 ? louder : quieter), 255 * Math.min(1, Math.abs(change) / CHANGE_DB)];
  };
}

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function draw(figure, { mels, frames, hop_seconds, ticks }, cellColour, words) {
  const canvas = find("canvas", figure);
  [canvas.width, canvas.height] = [frames, mels];
  canvas.setAttribute("aria-label", words);
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(frames, mels);
  for (let mel = 0; mel < mels; mel++) {
    for (let frame = 0; frame < frames; frame++) {
      image.data.set(cellColour(mel * frames + frame), 4 * ((mels - 1 - mel) * frames + frame));
    }
  }
  pen.putImageData(image, 0, 0);
  const seconds = frames * hop_seconds;
  const marks = ticks.filter(([hz]) => hz % 1000 === 0).map(([hz, place]) => {
    const mark = make("span", { class: "khz" }, `${hz / 1000}`);
    mark.style.bottom = `${(100 * place) / mels}%`;
    return mark;
  });
  const every = seconds > 4 ? 2 : seconds > 1 ? 1 : 0.2;
  for (let at = 0; at <= seconds - every / 4; at += every) {
    const mark = make("span", { class: "second" }, `${+at.toFixed(1)}`);
    mark.style.left = `${(100 * at) / seconds}%`;
    marks.push(mark);
  }
  find(".axis", figure).replaceChildren(...marks);
}

// ---- the player: all sounds run together, one of them is heard --------------------------------

class Player {
  #context = null;
  #sources = [];
  #gains = {};
  #began = 0;
  offset = 0;
  playing = false;
  buffers = {};

  get context() {
    return (this.#context ??= new AudioContext());
  }

  get duration() {
    return this.buffers.original?.duration ?? 0;
  }

  get position() {
    if (!this.playing) return this.offset;
    const at = this.offset + this.context.currentTime - this.#began;
    return find("#loop").checked && this.duration ? at % this.duration : Math.min(at, this.duration);
  }

  load(buffers) {
    const { playing, position } = this;
    this.#silence();
    this.buffers = buffers;
    this.offset = Math.min(position, this.duration);
    find("#position").max = this.duration;
    if (!buffers[chosen("heard")]) find("input[name=heard][value=original]").checked = true;
    if (playing) this.play();
    this.tell();
  }

  play() {
    if (!this.duration) return;
    this.context.resume();
    this.#silence();
    if (this.offset >= this.duration - 0.01) this.offset = 0;
    this.#began = this.context.currentTime;
    for (const [name, buffer] of Object.entries(this.buffers)) {
      if (!buffer) continue;
      const source = new AudioBufferSourceNode(this.context, { buffer, loop: find("#loop").checked });
      this.#gains[name] = new GainNode(this.context, { gain: name === chosen("heard") ? 1 : 0 });
      source.connect(this.#gains[name]).connect(this.context.destination);
      source.start(0, this.offset);
      this.#sources.push(source);
    }
    this.playing = true;
    requestAnimationFrame(() => this.tick());
    this.tell();
  }

  pause() {
    this.offset = this.position;
    this.#silence();
    this.tell();
  }

  seek(position) {
    const { playing } = this;
    this.#silence();
    this.offset = position;
    if (playing) this.play();
    this.tell();
  }

  select() {
    for (const [name, gain] of Object.entries(this.#gains)) {
      gain.gain.setTargetAtTime(name === chosen("heard") ? 1 : 0, this.context.currentTime, 0.005);
    }
    this.tell();
  }

  get audible() {
    return Object.keys(this.#gains).filter((name) => this.#gains[name].gain.value > 0.5);
  }

  tick() {
    if (!this.playing) return;
    this.tell();
    if (!find("#loop").checked && this.position >= this.duration) this.seekToStart();
    else requestAnimationFrame(() => this.tick());
  }

  seekToStart() {
    this.#silence();
    this.offset = 0;
    this.tell();
  }

  tell() {
    const { position, duration } = this;
    find("#play").textContent = this.playing ? "Pause" : "Play";
    find("#play").setAttribute("aria-pressed", this.playing);
    find("#position").value = position;
    find("#position").setAttribute("aria-valuetext", `${position.toFixed(1)} of ${duration.toFixed(1)} seconds`);
    all(".head").forEach((head) => {
      head.classList.toggle("on", this.playing || position > 0);
      head.style.left = `${duration ? (100 * position) / duration : 0}%`;
    });
    COLUMNS.forEach((name) => find(`#column-${name}`)?.classList.toggle("playing", name === chosen("heard")));
  }

  #silence() {
    this.#sources.forEach((source) => source.stop());
    this.#sources = [];
    this.#gains = {};
    this.playing = false;
  }
}

const player = new Player();

find("#play").addEventListener("click", () => (player.playing ? player.pause() : player.play()));
find("#position").addEventListener("input", (event) => player.seek(Number(event.target.value)));
find("#loop").addEventListener("change", () => player.playing && player.seek(player.position));
find("#heard").addEventListener("change", () => player.select());
find("#attacker").addEventListener("change", show);
// Letters switch while the focus is in the player alone, so that they are free elsewhere.
find("#player").addEventListener("keydown", (event) => {
  const name = COLUMNS["abc".indexOf(event.key.toLowerCase())];
  const button = name && find(`input[name=heard][value=${name}]`);
  if (!button || button.disabled || event.ctrlKey || event.metaKey || event.altKey) return;
  button.checked = true;
  player.select();
});

// ---- the beginning ----------------------------------------------------------------------------

for (const name of COLUMNS) {
  const article = find("#column").content.cloneNode(true).firstElementChild;
  article.id = `column-${name}`;
  find("h3", article).textContent = name[0].toUpperCase() + name.slice(1);
  if (name === "original") find(".difference", article).replaceWith(find("#legend").content.cloneNode(true));
  article.addEventListener("click", (event) => {
    const plot = event.target.closest(".plot");
    if (!plot) return;
    const { left, width } = plot.getBoundingClientRect();
    player.seek(Math.max(0, Math.min(1, (event.clientX - left) / width)) * player.duration);
  });
  find("#columns").append(article);
}
// Differences take the colours of the page, which follow day and night.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => trials.none && show());
begin();
