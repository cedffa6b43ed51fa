// Changes the theme at once and tells the server in the background, so that the page stays as it is: what is typed into it
// and what it shows only for a while.

const form = document.querySelector("form.theme");

async function choose(event) {
  event.preventDefault();
  const chosen = event.submitter;
  document.documentElement.dataset.theme = chosen.value;
  for (const button of form.elements) button.setAttribute("aria-pressed", button === chosen);
  const ground = getComputedStyle(document.body).backgroundColor;
  for (const meta of document.querySelectorAll("meta[name=theme-color]")) meta.content = ground;
  const body = new URLSearchParams(new FormData(form, chosen));
  const headers = { Accept: "application/json" };
  const answer = await fetch(form.action, { method: "POST", headers, body, keepalive: true }).catch(() => null);
  if (!answer || answer.ok) return;
  // Refused. Sent as without this script, so that the page says what is wrong.
  form.removeEventListener("submit", choose);
  form.requestSubmit(chosen);
}

form.addEventListener("submit", choose);
