// The page: a photo, sentences about it, their masks, and corrections. Everything shown is drawn from `state`.

import {Failure, Service} from "./api.js";
import {maskPicture, overlayPicture, PhotoView} from "./canvas.js";
import {body, chosenMasks, Corrections} from "./corrections.js";
import {fileName, listen, megabytes, millions, openPhoto, save, showExamples} from "./photos.js";
import {SentenceList, told} from "./sentences.js";

const $ = id => document.getElementById(id);
const state = {photo: null, sentences: [], current: null, about: null, described: null}; // about: the service's limits
const LABELS = {
  clean: "saw no evaluation images", leaky: "leaky: saw evaluation images", unknown: "unknown training images"};
const OTHER_MODEL = 412; // status of a correction by proposals of a model that does not answer any more

const say = text => { $("said").textContent = text; };
const wrong = text => { $("wrong").textContent = text; };
const service = new Service({
  askForToken,
  onWait: seconds => say(`The service is busy: asking again in ${Math.ceil(seconds)} s …`),
});
const view = new PhotoView(document.querySelector(".frame"), $("photo"), $("masks"));
const list = new SentenceList($("sentences"), {pick, remove, again: ask});
const corrections = new Corrections(
  {panel: $("correction"), chips: $("proposals"), none: $("none"), reset: $("reset"), send: $("send"), kept: $("kept"),
    title: $("correction-title")},
  $("stage"), view, {changed: pressed => pressed ? show() : draw(), send, say});

// the lowest first: all proposals while one is pointed at, the answer or what is chosen in its place, the pointed one
function layers(pointing = true) {
  const {current} = state;
  if (current?.state !== "answered") return [];
  const {choice, result} = current, shown = [];
  if (pointing && corrections.pointed) shown.push(["proposal", current.masks]);
  if (choice) shown.push(["chosen", chosenMasks(current)]);
  else if (!result.empty) shown.push(["answer", [result.mask]]);
  if (pointing && corrections.pointed) shown.push(["pointed", [corrections.pointed]]);
  return shown;
}

function draw() {
  view.draw(layers());
}

function show() {
  const {photo, sentences, current} = state, answered = current?.state === "answered";
  $("start").hidden = Boolean(photo);
  $("shown").hidden = !photo;
  list.show(sentences, current);
  corrections.open(answered ? current : null, Boolean(state.about?.corrections));
  $("save-mask").disabled = $("save-overlay").disabled = !answered;
  if (photo) {
    const what = answered ? `, with the mask of “${current.text}”: ${told(current)}` : "";
    $("photo").setAttribute("aria-label", `${photo.name}${what}`);
    $("stage").setAttribute("aria-label", answered ? "Photo and proposals" : "Photo");
    $("stage").classList.toggle("pointing", answered && current.proposals.length > 0);
  }
  draw();
}

async function take(blob, name, text) {
  wrong("");
  try {
    const photo = await openPhoto(blob, name, state.about?.limits);
    for (const sentence of state.sentences) sentence.stop.abort();
    Object.assign(state, {photo, sentences: [], current: null});
    $("name").textContent = `${name} · ${photo.width}\u00a0×\u00a0${photo.height}`;
    show(); // the frame has its size only once it is there
    view.show(photo);
    say("");
  } catch (failure) {
    return fail(failure);
  }
  $("text").focus();
  if (text) add(text);
}

function add(text) {
  const sentence = {text, state: "asking", choice: null, kept: null};
  state.sentences.push(sentence);
  state.current = sentence;
  ask(sentence);
}

// The proposals of a photo are the same until another model answers, and come along once.
async function ask(sentence) {
  const {photo} = state;
  Object.assign(sentence, {state: "asking", stop: new AbortController(), choice: null});
  wrong("");
  show();
  say(`Asking for “${sentence.text}” …`);
  const options = {signal: sentence.stop.signal};
  try {
    let answer = await service.segment(photo, sentence.text, {...options, proposals: !photo.found});
    if (!answer.proposals && photo.found.digest !== answer.model.digest)
      answer = await service.segment(photo, sentence.text, {...options, proposals: true});
    if (answer.proposals) {
      const {proposals, model: {digest}} = answer;
      photo.found = {proposals, masks: proposals.map(p => p.mask), digest};
    }
    Object.assign(sentence, {state: "answered", result: answer.result, ...photo.found});
    describe(answer.model);
    if (sentence === state.current) say(`“${sentence.text}”: ${told(sentence)}.`);
  } catch (failure) {
    if (failure.name === "AbortError") return;
    Object.assign(sentence, {state: "failed", message: fail(failure)});
  }
  show();
}

function pick(sentence) {
  state.current = sentence;
  wrong("");
  show();
  say(sentence.state === "answered" ? `“${sentence.text}”: ${told(sentence)}.` : "");
}

function remove(sentence) {
  sentence.stop.abort();
  const at = state.sentences.indexOf(sentence);
  state.sentences.splice(at, 1);
  if (state.current === sentence) state.current = state.sentences[Math.min(at, state.sentences.length - 1)] ?? null;
  show();
  say(`Removed “${sentence.text}”.`);
}

// Proposals are named by their indices, so the service refuses those of a model that does not answer any more.
async function send(sentence) {
  const {photo} = state;
  sentence.sending = true;
  wrong("");
  show();
  try {
    sentence.kept = await service.correct(photo, body(sentence));
    say(`Correction kept as ${sentence.kept}.`);
  } catch (failure) {
    if (failure.status !== OTHER_MODEL) fail(failure);
    else {
      await ask(sentence);
      say("Another model has taken over, so the sentence was asked anew: choose again.");
    }
  }
  sentence.sending = false;
  show();
}

function fail(failure) {
  if (!(failure instanceof Failure)) console.error(failure);
  const message = failure instanceof Failure ? failure.message : "Something in this page went wrong: reload it.";
  wrong(message);
  say("");
  return message;
}

function describe({name, version, address, label, digest}) {
  if (state.described === digest) return;
  state.described = digest;
  const facts = [name, version && `version ${version}`, version && address, LABELS[label]].filter(Boolean);
  $("model").replaceChildren(...facts.map(fact => {
    const part = document.createElement("span");
    part.textContent = fact;
    return part;
  }));
}

function askForToken(refused) {
  const dialog = $("token"), text = $("token-text");
  $("token-why").textContent = refused ? "It refused the last one." :
    "Whoever runs it has given you one. It is kept until this tab is closed.";
  text.value = "";
  dialog.showModal();
  return new Promise(resolve => {
    let given = null;
    $("token-form").onsubmit = event => {
      event.preventDefault(); // nothing is sent by the form itself
      given = text.value.trim();
      dialog.close();
    };
    $("token-cancel").onclick = () => dialog.close();
    dialog.onclose = () => resolve(given);
  });
}

async function saveShown(kind, picture) {
  const {photo, current} = state;
  const shown = layers(false);
  await save(picture(photo, shown), fileName(photo, current.text, kind));
}
$("save-mask").onclick = () => saveShown("mask", (photo, shown) => maskPicture(photo, shown.flatMap(([, masks]) => masks)));
$("save-overlay").onclick = () => saveShown("overlay", overlayPicture);

$("ask").onsubmit = event => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!state.photo) return wrong("Choose a photo first.");
  if (!text) return wrong("Type what is meant, for example: woman in red on the left.");
  $("text").value = "";
  add(text);
};

listen({file: $("file"), choose: [$("choose"), $("another")], take, miss: wrong});

async function begin() {
  try {
    const about = await service.about();
    state.about = about;
    describe(about.model);
    $("text").maxLength = about.limits.characters;
    const {bytes, pixels} = about.limits;
    $("limits").textContent = `JPEG, PNG or WebP, up to ${megabytes(bytes)} and ${millions(pixels)}`;
    show();
    await showExamples($("examples"), about.examples, service, take);
  } catch (failure) {
    fail(failure);
  }
}
await begin();
