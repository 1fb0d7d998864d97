// Saying which one is meant: the proposals of the photo, by pointer or keyboard, and what is sent of them.
//
// The first one that is chosen stands in for the answer ("this one"), or with shift joins it; every other one joins what
// is chosen already ("together with"), or leaves it again. "None of them" says that the sentence names nothing.

import {percent, place, share} from "./sentences.js";

const STEPS = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1};

// the choice of a sentence: null (the answer stands), or {none: true} or {indices: [...]}
export function chosenMasks({choice, proposals}) {
  return (choice?.indices ?? []).map(index => maskOf(proposals, index));
}

export function body({text, choice, digest}) {
  return choice.none ? {text, no_target: true} : {text, proposals: choice.indices, model: digest};
}

const maskOf = (proposals, index) => proposals.find(p => p.index === index).mask;

export class Corrections {
  #sentence = null;
  #pointed = -1; // place in the list of proposals
  #listed = null; // the proposals that there are chips of

  // changed(): the choice, or what is pointed at, is another one; send(sentence); say(text)
  constructor({panel, chips, none, reset, send, kept, title}, stage, view, actions) {
    Object.assign(this, {panel, chips, none, reset, send, kept, title, view, actions});
    none.onclick = () => this.#choose(this.#sentence.choice?.none ? null : {none: true});
    reset.onclick = () => this.#choose(null);
    send.onclick = () => this.actions.send(this.#sentence);
    stage.addEventListener("pointermove", event => {
      if (event.pointerType === "touch") return;
      this.#point(this.view.under(event.clientX, event.clientY));
    });
    stage.addEventListener("pointerleave", () => this.#point(-1));
    stage.addEventListener("click", event => this.#click(event));
    stage.addEventListener("keydown", event => this.#key(event, true));
    stage.addEventListener("blur", () => this.#point(-1));
    chips.addEventListener("keydown", event => this.#key(event, false));
    chips.addEventListener("focusout", () => this.#point(-1));
    chips.addEventListener("pointerleave", () => this.#point(-1));
  }

  // mask that is pointed at, or null
  get pointed() {
    return this.#sentence?.proposals[this.#pointed]?.mask ?? null;
  }

  // shows what can be said of a sentence (null: there is none that was answered); `keeps`: corrections are kept
  open(sentence, keeps) {
    const other = sentence !== this.#sentence;
    this.#sentence = sentence;
    if (other) this.#pointed = -1;
    this.panel.hidden = !sentence;
    if (!sentence) return;
    const {proposals, choice, sending, kept} = sentence;
    this.view.proposals = sentence.masks;
    if (proposals !== this.#listed) this.chips.replaceChildren(...proposals.map((_, at) => this.#chip(at)));
    this.#listed = proposals;
    this.#mark();
    this.title.textContent = proposals.length ? "Is another one meant?" : "Nothing was proposed in this photo";
    this.none.setAttribute("aria-pressed", String(Boolean(choice?.none)));
    this.reset.disabled = !choice;
    this.send.hidden = !keeps;
    this.send.disabled = !choice || sending || kept;
    this.kept.textContent = kept ? `Kept as ${kept}.` : keeps ? "" :
      "This service keeps no corrections: it was started without --corrections.";
  }

  #chip(at) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = at + 1;
    chip.setAttribute("aria-label", this.#name(at));
    chip.onclick = event => this.#toggle(at, event.shiftKey);
    chip.onfocus = () => this.#point(at);
    chip.onpointerenter = () => this.#point(at);
    return chip;
  }

  #name(at) {
    const {proposals} = this.#sentence, {score, mask} = proposals[at];
    const where = `${percent(share(mask))} of the photo, ${place(mask)}`;
    return `Proposal ${at + 1} of ${proposals.length}, score ${score.toFixed(2)}, ${where}`;
  }

  #mark() {
    const {proposals, choice, result} = this.#sentence, chosen = choice ? choice.indices ?? [] : result.proposals;
    const reached = Math.max(0, this.#pointed);
    [...this.chips.children].forEach((chip, at) => {
      chip.setAttribute("aria-pressed", String(chosen.includes(proposals[at].index)));
      chip.classList.toggle("pointed", at === this.#pointed);
      chip.tabIndex = at === reached ? 0 : -1; // one stop for the tab key, arrows go on from there
    });
  }

  #point(at) {
    if (!this.#sentence || at === this.#pointed) return;
    this.#pointed = at;
    this.#mark();
    this.actions.changed();
  }

  #click(event) {
    if (!this.#sentence) return;
    const at = this.view.under(event.clientX, event.clientY);
    if (at < 0) this.actions.say("Nothing was proposed there.");
    else this.#toggle(at, event.shiftKey);
  }

  #key(event, onStage) {
    const count = this.#sentence?.proposals.length;
    if (!count || event.altKey || event.ctrlKey || event.metaKey) return;
    let at = this.#pointed;
    if (event.key in STEPS) at = at < 0 ? (STEPS[event.key] > 0 ? 0 : count - 1) : (at + STEPS[event.key] + count) % count;
    else if (event.key === "Home") at = 0;
    else if (event.key === "End") at = count - 1;
    else if (event.key === "Escape") {
      event.preventDefault();
      return this.#choose(null);
    } else if (onStage && at >= 0 && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault(); // on a chip, a button, the browser makes a click of it
      return this.#toggle(at, event.shiftKey);
    } else return;
    event.preventDefault();
    if (onStage) {
      this.#point(at);
      this.actions.say(this.#name(at));
    } else this.chips.children[at].focus();
  }

  #toggle(at, together) {
    const {proposals, choice, result} = this.#sentence, {index} = proposals[at];
    const before = choice?.indices ?? (together && !choice ? result.proposals : []);
    const joins = !choice?.indices || !before.includes(index);
    const indices = joins ? [...new Set([...before, index])] : before.filter(i => i !== index);
    this.#choose(indices.length ? {indices} : null);
  }

  #choose(choice) {
    if (!this.#sentence) return;
    Object.assign(this.#sentence, {choice, kept: null});
    this.actions.changed(true);
    const {proposals} = this.#sentence;
    const numbers = (choice?.indices ?? []).map(index => proposals.findIndex(p => p.index === index) + 1);
    this.actions.say(!choice ? "The answer stands." : choice.none ? "Chosen: it names nothing."
      : `Chosen: proposal ${numbers.join(" and ")}.`);
  }
}
