// Passkeys. Each place that offers one has `data-passkey`: the path below which its ceremony starts and finishes. It
// contains a button, which stays hidden where passkeys do not work, and a line for messages.

const known = typeof PublicKeyCredential === "function" && "parseRequestOptionsFromJSON" in PublicKeyCredential;

// A passkey belongs to a host name. In development a page can be opened by an address too.
const hasName = !/^\[|^[\d.]+$/.test(location.hostname);

class Refusal extends Error {}

async function post(place, act, body) {
  const headers = { "Content-Type": "application/json" };
  const path = `${place.dataset.passkey}/${act}`;
  const answer = await fetch(path, { method: "POST", redirect: "manual", headers, body: JSON.stringify(body) });
  if (answer.type === "opaqueredirect") {
    // Logged out in the meantime, or logged in too long ago: this page, or one that it names, redirects to the log-in or to
    // the page to confirm it.
    location.assign(place.dataset.recent ?? location.href);
    throw new Refusal("");
  }
  if (answer.status === 429) throw new Refusal("Too many attempts. Wait a few minutes, then try again.");
  const { error, ...rest } = await answer.json().catch(() => ({ error: "That did not work. Please try again." }));
  if (error) throw new Refusal(error);
  return rest;
}

// The values of these fields, in the main form of the page or in the place itself.
function typed(place, ...names) {
  const forms = [document.querySelector("main form"), place];
  const inputs = forms.flatMap((form) => names.map((name) => form?.elements?.[name])).filter(Boolean);
  return Object.fromEntries(inputs.map(({ name, type, checked, value }) => [name, type === "checkbox" ? checked : value]));
}

// Whose page it is, if it is a user's: someone else may have logged in since.
function owner(place) {
  const field = (place.closest("form") ?? place).querySelector("[name=for]");
  return field ? { for: field.value } : {};
}

async function ask({ publicKey }, more) {
  if (publicKey.user) {
    return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) });
  }
  return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey), ...more });
}

function start(place) {
  const fields = place.dataset.needs ? typed(place, "username", "email", "invite") : owner(place);
  return post(place, "start", fields);
}

async function finish(place, options, more) {
  const answer = await ask(options, more);
  // A form with a field for it is sent with it, and judged as a whole.
  const form = place.closest("form");
  if (form?.elements.passkey) {
    form.elements.passkey.value = JSON.stringify(answer);
    return form.submit();
  }
  const fields = { ...answer.toJSON(), ...typed(place, "next", "late", "stay"), ...owner(place) };
  const { next } = await post(place, "finish", fields);
  location.assign(next);
}

function words(error) {
  if (error instanceof Refusal) return error.message;
  if (error.name === "InvalidStateError") return "This device already has a passkey for your account.";
  if (error.name === "NotAllowedError") return "No passkey was used. You can try again.";
  return "That did not work. Please try again.";
}

function offer(place) {
  const button = place.querySelector("button");
  const line = place.querySelector("[role=status]");
  let waiting = new AbortController();
  const say = (error) => {
    if (error.name !== "AbortError") line.textContent = words(error);
  };
  // The browser offers passkeys where the username is typed, until the button is pressed.
  const autofill = async () => {
    const { signal } = (waiting = new AbortController());
    if (!("autofill" in place.dataset) || !(await PublicKeyCredential.isConditionalMediationAvailable?.())) return;
    const options = await start(place).catch(say);
    if (!options) return;
    await finish(place, options, { mediation: "conditional", signal }).catch((error) => {
      // Nothing was pressed, so nothing is said of what was not used.
      if (error.name !== "NotAllowedError") say(error);
      // A page may stay open for longer than a challenge is valid; the next try gets a new one.
      if (error instanceof Refusal) autofill();
    });
  };
  const isComplete = () => {
    const { elements } = document.querySelector("main form") ?? {};
    return elements?.[place.dataset.needs]?.reportValidity() ?? true;
  };
  button.addEventListener("click", async () => {
    if (!isComplete()) return;
    waiting.abort();
    line.textContent = "";
    button.disabled = true;
    try {
      await finish(place, await start(place));
    } catch (error) {
      say(error);
      button.disabled = false;
      autofill();
    }
  });
  // By the back button a page comes as it was left.
  addEventListener("pageshow", ({ persisted }) => persisted && (button.disabled = false));
  line.textContent = "";
  button.hidden = false;
  autofill();
}

// Tells the authenticator of a passkey that was just removed here, so that it is not offered any more.
function forget({ dataset: { site, removed } }) {
  PublicKeyCredential.signalUnknownCredential?.({ rpId: site, credentialId: removed }).catch(() => {});
}

for (const place of document.querySelectorAll("[data-passkey]")) {
  if (known && hasName) offer(place);
  if (known && place.dataset.removed) forget(place);
  if (!hasName) {
    const here = new URL(location.origin);
    here.hostname = "localhost";
    place.querySelector("[role=status]").textContent = `Passkeys need ${here.origin}.`;
  }
}
