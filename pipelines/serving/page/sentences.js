// The list of the sentences that were asked about the photo. Sentences are other people's words: text nodes, never HTML.

import {area, bounds} from "./rle.js";

export const percent = share => `${share > 0 && share < .01 ? "<1" : Math.round(100 * share)}\u00a0%`;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// "upper left", of where the middle of a mask lies in thirds of the photo
export function place(mask) {
  const [height, width] = mask.size, [left, top, right, bottom] = bounds(mask);
  const third = (middle, side) => Math.min(2, Math.floor(3 * middle / (2 * side)));
  const down = ["upper", "", "lower"][third(top + bottom, height)];
  const across = ["left", "", "right"][third(left + right, width)];
  return [down, across].filter(Boolean).join(" ") || "in the middle";
}

export const share = mask => area(mask) / (mask.size[0] * mask.size[1]);

// what is said of an answer, to the eye below the words and to a screen reader at once
export function told(sentence) {
  const {result} = sentence;
  const nothing = `names nothing ${percent(result.no_target)}`;
  if (result.empty) return `nothing found, ${nothing}`;
  return `score ${result.score.toFixed(2)}, ${nothing}, ${percent(share(result.mask))} of the photo, ${place(result.mask)}`;
}

export class SentenceList {
  // pick(sentence), remove(sentence), again(sentence)
  constructor(list, {pick, remove, again}) {
    Object.assign(this, {list, pick, remove, again});
  }

  // sentences: {text, state: "asking", "answered" or "failed", result, message, kept}
  show(sentences, current) {
    const focus = this.#focused();
    this.list.replaceChildren(...sentences.map(sentence => this.#item(sentence, sentence === current)));
    if (focus) this.#refocus(sentences, focus);
  }

  #item(sentence, current) {
    const item = element("li", `sentence ${sentence.state}`), pick = element("button", "pick");
    pick.type = "button";
    pick.append(element("span", "words", sentence.text));
    if (current) pick.setAttribute("aria-current", "true");
    pick.onclick = () => this.pick(sentence);
    pick.append(element("span", "figures", this.#figures(sentence)));
    if (sentence.state === "answered") {
      const bar = element("span", "bar"), filled = element("span");
      filled.style.width = `${100 * (sentence.result.empty ? 0 : sentence.result.score)}%`;
      bar.append(filled);
      pick.append(bar);
    }
    item.append(pick);
    if (sentence.state === "failed")
      item.append(this.#button("Ask again", "again", `Ask again: ${sentence.text}`, sentence));
    item.append(this.#button("×", "remove", `Remove: ${sentence.text}`, sentence));
    return item;
  }

  #figures({state, result, message, kept}) {
    if (state === "asking") return "asking …";
    if (state === "failed") return message;
    const parts = [result.empty ? "nothing found" : `score ${result.score.toFixed(2)}`,
      `names nothing ${percent(result.no_target)}`];
    if (kept) parts.push("corrected");
    return parts.join(" · ");
  }

  #button(text, action, label, sentence) {
    const button = element("button", action, text);
    button.type = "button";
    button.setAttribute("aria-label", label);
    button.onclick = () => this[action](sentence);
    return button;
  }

  // the list is built anew at every change: whoever works with the keyboard stays where they were
  #focused() {
    const item = document.activeElement?.closest?.("li.sentence");
    if (!item || item.parentElement !== this.list) return null;
    return {at: [...this.list.children].indexOf(item), kind: document.activeElement.className};
  }

  #refocus(sentences, {at, kind}) {
    const item = this.list.children[Math.min(at, sentences.length - 1)];
    const target = item ? item.querySelector(`.${kind}`) ?? item.querySelector(".pick") : document.getElementById("text");
    target.focus();
  }
}
