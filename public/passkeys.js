// Passkeys. Each place that offers one has `data-passkey`: the path below which its ceremony starts and finishes. In it
// stand a button, which is hidden where the browser knows no passkeys, and a line that says so, and else what happened.

const known = typeof PublicKeyCredential === "function" && "parseRequestOptionsFromJSON" in PublicKeyCredential;

class Refusal extends Error {}

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { method: "POST", redirect: "manual", headers, body: JSON.stringify(body) });
  if (answer.type === "opaqueredirect") {
    // Logged out meanwhile, or logged in too long ago: loaded anew, this page leads to where that is mended.
    location.reload();
    throw new Refusal("");
  }
  if (answer.status === 429) throw new Refusal("That was often. Please wait a few minutes.");
  const { error, ...rest } = await answer.json().catch(() => ({ error: "That did not work. Please try again." }));
  if (error) throw new Refusal(error);
  return rest;
}

// What stands in these fields, of the form that the page is about or of the place itself.
function typed(place, ...names) {
  const forms = [document.querySelector("main form"), place];
  const inputs = forms.flatMap((form) => names.map((name) => form?.elements?.[name])).filter(Boolean);
  return Object.fromEntries(inputs.map(({ name, type, checked, value }) => [name, type === "checkbox" ? checked : value]));
}

// Whose page it is, if it is a user's: somebody else may have logged in since.
function owner(place) {
  const field = place.querySelector("[name=for]");
  return field ? { for: field.value } : {};
}

async function ask({ publicKey }, more) {
  if (publicKey.user) {
    return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) });
  }
  return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey), ...more });
}

function start(place) {
  const fields = place.dataset.needs ? typed(place, "username", "email") : owner(place);
  return post(`${place.dataset.passkey}/start`, fields);
}

async function finish(place, options, more) {
  const answer = await ask(options, more);
  // A form with a field for it is sent with it, and judged as a whole.
  const field = place.elements?.passkey;
  if (field) {
    field.value = JSON.stringify(answer);
    return place.submit();
  }
  const fields = { ...answer.toJSON(), ...typed(place, "next", "stay"), ...owner(place) };
  const { next } = await post(`${place.dataset.passkey}/finish`, fields);
  location.assign(next);
}

function words(error) {
  if (error instanceof Refusal) return error.message;
  if (error.name === "InvalidStateError") return "There is a passkey for this account on that device already.";
  if (error.name === "NotAllowedError") return "No passkey was used. Try again whenever you like.";
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
      say(error);
      // A page may stand open for longer than a challenge is good; the next try has a new one.
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
      autofill();
    }
    button.disabled = false;
  });
  line.textContent = "";
  button.hidden = false;
  autofill();
}

if (known) document.querySelectorAll("[data-passkey]").forEach(offer);
