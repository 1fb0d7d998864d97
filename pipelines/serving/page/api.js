// The service's HTTP interface. Every failure is a Failure whose message is one line for the person at the page.

const TRIES = 4; // of a request that the service is too busy for
const LONGEST_WAIT = 20; // seconds

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export class Service {
  #token = sessionStorage.getItem("token");
  #asking = null;

  // askForToken(refused) resolves to a token, or null if there is none; onWait(seconds) hears of a busy service
  constructor({askForToken, onWait}) {
    this.askForToken = askForToken;
    this.onWait = onWait;
  }

  // {model, limits, corrections, examples}
  async about() {
    return (await this.#request("v1/model")).json();
  }

  async example(url) {
    return (await this.#request(url.replace(/^\//, ""))).blob();
  }

  // the answer to one sentence: {image, result, proposals (if asked for), model}
  async segment(photo, text, {proposals, signal}) {
    const body = {prompts: [{type: "text", text}], format: "rle", proposals};
    const {results: [result], ...answer} = await this.#about(photo, "v1/segment", body, signal);
    photo.sha256 = answer.image.sha256;
    return {...answer, result};
  }

  // correction: {text, and proposals or no_target}; resolves to the id that it is kept by
  async correct(photo, correction) {
    return (await this.#about(photo, "v1/corrections", correction)).kept;
  }

  // a photo that the service has in its cache is named by its hash, any other one sent
  async #about(photo, path, body, signal) {
    const send = async image => {
      const text = JSON.stringify({image, ...body});
      const headers = {"Content-Type": "application/json"};
      return (await this.#request(path, {method: "POST", body: text, headers, signal})).json();
    };
    if (photo.sha256) {
      try {
        return await send({sha256: photo.sha256});
      } catch (failure) {
        if (failure.status !== 404) throw failure;
      }
    }
    return send({base64: await base64(photo.blob)});
  }

  async #request(path, options = {}, tries = TRIES) {
    const used = this.#token, headers = {...options.headers, ...(used && {Authorization: `Bearer ${used}`})};
    let response;
    try {
      response = await fetch(path, {...options, headers, cache: "no-store", redirect: "error"});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("The service cannot be reached: is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await this.#newToken(used);
      return this.#request(path, options, tries);
    }
    const pause = Number(response.headers.get("Retry-After") ?? NaN);
    if ([429, 503].includes(response.status) && pause <= LONGEST_WAIT && tries > 1) {
      this.onWait(pause);
      await new Promise(resolve => setTimeout(resolve, 1000 * pause));
      options.signal?.throwIfAborted();
      return this.#request(path, options, tries - 1);
    }
    throw new Failure(await told(response), response.status);
  }

  // asks once, however many requests were refused
  async #newToken(used) {
    if (this.#token !== used) return;
    this.#asking ??= this.askForToken(used !== null).finally(() => { this.#asking = null; });
    const given = await this.#asking;
    if (!given) throw new Failure("The service answers only with its token.", 401);
    this.#token = given;
    sessionStorage.setItem("token", given);
  }
}

async function told(response) {
  try {
    const {error: {message}} = await response.json();
    return String(message);
  } catch {
    return `The service answered ${response.status} ${response.statusText}`.trim() + ".";
  }
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Failure("The photo's file can no longer be read: choose it anew."));
    reader.readAsDataURL(blob);
  });
}
