// Keeps what is typed in this tab, for an hour and for the same person, and puts it back when the page comes again without
// it: after a log-in, an error or a reload. Passwords, codes, hidden fields and files are never kept.

const LIFETIME = 60 * 60 * 1000;
const MOST_BYTES = 64 * 1024;
const WORDS = {
  here: "Your text is still here.",
  loggedOut: "You were logged out. Your text is still here.",
  newer: "This was changed elsewhere in the meantime. Your text is still here; saving it replaces the newer version.",
  discard: "Discard",
  leave: "What you typed is not saved yet. Leave it?",
};

const NEVER = `[type=password], [type=hidden], [type=file], [type=submit], [type=button], [type=reset], [type=image],
  [hidden], [name=code], [autocomplete*=password], [autocomplete*=one-time-code], [autocomplete*=cc-],
  form:has([autocomplete=current-password]) [autocomplete^=username]`;
// Found at once, because "Show" turns a field for a password into one for text.
const never = new Set(document.querySelectorAll(NEVER));

const { user } = document.querySelector("script[data-user]").dataset;
const [{ type, redirectCount, responseStatus }] = performance.getEntriesByType("navigation");
const cameFrom = document.referrer && new URL(document.referrer).pathname;

// What is kept: drafts by the key of their form, oldest first, and the form that was sent last.
function update(change) {
  try {
    const kept = JSON.parse(sessionStorage.getItem("drafts")) ?? { drafts: {} };
    change(kept);
    const oldest = Object.keys(kept.drafts);
    while (new Blob([JSON.stringify(kept)]).size > MOST_BYTES) delete kept.drafts[oldest.shift()];
    if (kept.sent || kept.answered || oldest.length) sessionStorage.setItem("drafts", JSON.stringify(kept));
    else sessionStorage.removeItem("drafts");
  } catch {
    // Storage is forbidden or full.
  }
}

// The properties of a field that a person sets, one for each option of a list. `served` is how the page came.
function parts(field) {
  const part = (element, key, served) => {
    const name = key === "value" ? field.name : `${field.name}=${element.value}`;
    return { element, key, served, name };
  };
  if (field.matches("select")) return [...field.options].map((option) => part(option, "selected", option.defaultSelected));
  if (field.matches("[type=checkbox], [type=radio]")) return [part(field, "checked", field.defaultChecked)];
  return [part(field, "value", field.defaultValue)];
}

// Those of a form that asks for text; of any other there are none.
function partsOf(form) {
  const fields = [...form.elements].filter((field) => field.name && field.matches("input, select, textarea"));
  const found = fields.filter((field) => !field.matches(NEVER) && !never.has(field)).flatMap(parts);
  const isPost = form.getAttribute("method")?.toLowerCase() === "post";
  return isPost && found.some(({ key }) => key === "value") ? found : [];
}

// Stands for what was served, which would take as much room as what was typed (FNV-1a).
function hash(served) {
  let sum = 0x811c9dc5;
  for (const character of String(served)) sum = Math.imul(sum ^ character.codePointAt(), 0x01000193);
  return sum;
}

// What differs from the page as it came; with a draft, from the page that this was begun on.
function changes(form, draft = {}) {
  const change = ({ element, key, served, name }) => [name, { was: draft[name]?.was ?? hash(served), now: element[key] }];
  return Object.fromEntries(partsOf(form).map(change).filter(([, { was, now }]) => was !== hash(now)));
}

const isChanged = (form) => Object.keys(changes(form)).length > 0;

// The form of this page that came back with mistakes, and so with its text; the key it was sent by, and from which path.
let returned, sent;

const actionOf = (form) => form.getAttribute("action") ?? "";

// Forms of one page that have the same action are told apart by their order.
function keyOf(form) {
  if (form === returned) return sent.key;
  const alike = [...document.forms].filter((other) => actionOf(other) === actionOf(form));
  return JSON.stringify([user, location.pathname, actionOf(form), alike.indexOf(form)]);
}

// What became of the form that was sent last. It has succeeded when its answer leads to another page, unless that one
// only comes first and then leads back, as the log-in does. A page that does not come from the form's is no answer to it.
function settle(kept) {
  const isRedirect = redirectCount > 0;
  const isDetour = isRedirect && new URLSearchParams(location.search).has("next");
  sent = kept.sent ?? (type === "reload" ? kept.answered : undefined);
  delete kept.sent;
  kept.answered = isRedirect ? undefined : sent;
  if (isRedirect && !isDetour && sent?.from === cameFrom) delete kept.drafts[sent.key];
  const action = kept.answered && JSON.parse(sent.key)[2];
  returned = [...document.forms].find((form) => actionOf(form) === action && form.querySelector(".mistake"));

  for (const [key, draft] of Object.entries(kept.drafts)) {
    const [owner] = JSON.parse(key);
    // A stranger's has become the user's, or was of no use; 409 refuses another user's form, and leads back to it.
    const isAnothers = user && owner !== user && responseStatus !== 409;
    if (isAnothers || draft.at < Date.now() - LIFETIME) delete kept.drafts[key];
    else if (isDetour && owner && !user) draft.isLoggedOut = true;
  }
}

function restore(kept) {
  for (const form of document.forms) {
    const draft = kept.drafts[keyOf(form)];
    if (!draft || form === returned) continue;
    const fields = partsOf(form).filter(({ name }) => name in draft.changes);
    if (fields.every(({ served, name }) => served === draft.changes[name].now)) delete kept.drafts[keyOf(form)];
    const lost = fields.filter(({ element, key, name }) => element[key] !== draft.changes[name].now);
    if (!lost.length) continue;
    for (const { element, key, name } of lost) {
      element[key] = draft.changes[name].now;
      element.dispatchEvent(new Event("input", { bubbles: true }));
    }
    const isOld = lost.some(({ served, name }) => hash(served) !== draft.changes[name].was);
    addEventListener("beforeunload", ask);
    say(form, isOld ? WORDS.newer : draft.isLoggedOut ? WORDS.loggedOut : WORDS.here);
    delete draft.isLoggedOut;
  }
}

function say(form, words) {
  const line = document.createElement("p");
  line.className = "flash";
  line.setAttribute("role", "status");
  const discard = document.createElement("button");
  discard.type = "button";
  discard.textContent = WORDS.discard;
  discard.addEventListener("click", () => {
    form.reset();
    for (const { element } of partsOf(form)) element.dispatchEvent(new Event("input", { bubbles: true }));
    line.remove();
    partsOf(form)[0].element.focus();
  });
  line.append(words, " ", discard);
  form.before(line);
  form.closest("details")?.setAttribute("open", "");
}

const ask = (event) => {
  if (user && [...document.forms].some(isChanged)) event.preventDefault();
};

update(settle);
update(restore);

function keep({ drafts }, form) {
  const key = keyOf(form);
  const changed = changes(form, drafts[key]?.changes);
  delete drafts[key];
  if (Object.keys(changed).length) drafts[key] = { at: Date.now(), changes: changed };
}

document.addEventListener("input", ({ target: { form } }) => {
  if (!form) return;
  update((kept) => keep(kept, form));
  addEventListener("beforeunload", ask);
});
document.addEventListener("reset", ({ target }) => update(({ drafts }) => delete drafts[keyOf(target)]));
// Whoever sends one form loses what stands in another, unless the page comes again, as it does for `data-keeps`. Asked
// before the form is taken for sent.
document.addEventListener("submit", (event) => {
  const others = [...document.forms].filter((form) => form !== event.target);
  if (event.defaultPrevented || "keeps" in event.target.dataset || !user || !others.some(isChanged)) return;
  if (!confirm(WORDS.leave)) event.preventDefault();
});
// After every other script, which may send the form itself. What was kept may be gone by a log-out in another tab.
addEventListener("submit", ({ target, defaultPrevented }) => {
  if (defaultPrevented) return;
  removeEventListener("beforeunload", ask);
  update((kept) => {
    keep(kept, target);
    kept.sent = { key: keyOf(target), from: location.pathname };
  });
});
// A link leads away before the answer comes. By one that has `data-keeps` people come back to this page.
document.addEventListener("click", ({ target }) => {
  const link = target.closest("a");
  if (!link) return;
  update((kept) => delete kept.sent);
  if ("keeps" in link.dataset) removeEventListener("beforeunload", ask);
});
// The page is back from the browser's cache, so the answer to its form never came.
addEventListener("pageshow", ({ persisted }) => persisted && update((kept) => delete kept.sent));
