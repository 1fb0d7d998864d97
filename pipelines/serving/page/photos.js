// Where a photo comes from: dropped, pasted, chosen, or one of the service's examples.

import {Failure} from "./api.js";

// {name, blob, bitmap, width, height} of an image file, upright; `limits` are the service's
export async function openPhoto(blob, name, limits) {
  if (limits && blob.size > limits.bytes)
    throw new Failure(`${name} has ${megabytes(blob.size)}: this service takes up to ${megabytes(limits.bytes)}.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Failure(`${name} is no picture that this browser can show: take a JPEG, PNG or WebP.`);
  }
  const {width, height} = bitmap;
  if (limits && width * height > limits.pixels)
    throw new Failure(`${name} has ${width} × ${height} pixels: this service takes up to ${millions(limits.pixels)}.`);
  return {name, blob, bitmap, width, height};
}

export const megabytes = bytes => `${(bytes / 1e6).toLocaleString("en", {maximumFractionDigits: 1})} MB`;
export const millions = pixels => `${(pixels / 1e6).toLocaleString("en", {maximumFractionDigits: 1})} million pixels`;

// calls take(file) for whatever a person drops on the page, pastes or chooses; miss(message) where it is no image
export function listen({file, choose, take, miss}) {
  const first = files => {
    const image = [...files].find(f => f.type.startsWith("image/"));
    if (image) take(image, image.name || "pasted photo");
    else miss("That is no image file.");
  };
  for (const button of choose) button.onclick = () => file.click();
  file.onchange = () => {
    if (file.files.length) first(file.files);
    file.value = ""; // so that the same file can be chosen again
  };
  addEventListener("paste", event => {
    if (event.clipboardData?.files.length) first(event.clipboardData.files);
  });
  const over = on => document.body.classList.toggle("over", on);
  addEventListener("dragover", event => {
    event.preventDefault();
    over([...event.dataTransfer.types].includes("Files"));
  });
  addEventListener("dragleave", event => event.relatedTarget || over(false));
  addEventListener("drop", event => {
    event.preventDefault();
    over(false);
    first(event.dataTransfer.files);
  });
}

// fills a list with the service's examples; take(blob, name, text) is called with the one that is clicked
export async function showExamples(section, examples, service, take) {
  for (const {name, url, text} of examples) {
    let blob;
    try {
      blob = await service.example(url); // with the token, which <img src> would not send
    } catch {
      continue;
    }
    const item = document.createElement("li"), button = document.createElement("button");
    const picture = document.createElement("img"), words = document.createElement("span");
    picture.src = URL.createObjectURL(blob);
    picture.alt = "";
    words.textContent = text;
    button.type = "button";
    button.setAttribute("aria-label", `Example: ${text}`);
    button.append(picture, words);
    button.onclick = () => take(blob, `example ${name}`, text);
    item.append(button);
    section.querySelector("ul").append(item);
    section.hidden = false;
  }
}

// hands a canvas to the person as a PNG file
export async function save(canvas, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await canvas.convertToBlob({type: "image/png"}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// a file name of the photo's and the sentence's: "beach-woman-on-the-left-mask.png"
export function fileName(photo, text, kind) {
  const words = [photo.name.replace(/\.[^.]*$/, ""), text].map(part =>
    part.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60));
  return [...words.filter(Boolean), kind].join("-") + ".png";
}
