// A form that was sent waits for its answer: until then its buttons do nothing. They are not disabled, because what was
// pressed is part of what is sent, and would lose the focus.

// In case no answer ever comes.
const LONGEST = 30_000;
// A form that has `data-file` is answered by a file, so there is no new page.
const UNTIL_FILE = 5_000;

const isBusy = (form) => form.getAttribute("aria-busy") === "true";

function setBusy(form, busy) {
  for (const element of [form, ...form.elements]) {
    const name = element === form ? "aria-busy" : element.type === "submit" && "aria-disabled";
    if (name && busy) element.setAttribute(name, "true");
    else if (name) element.removeAttribute(name);
  }
}

// Before any other script gets the event.
addEventListener("submit", (event) => {
  if (!isBusy(event.target)) return;
  event.preventDefault();
  event.stopImmediatePropagation();
}, true);

// After all others, which may send it themselves, or not at all.
addEventListener("submit", ({ target: form, defaultPrevented }) => {
  if (defaultPrevented) return;
  setBusy(form, true);
  setTimeout(() => setBusy(form, false), "file" in form.dataset ? UNTIL_FILE : LONGEST);
});

// By the back button a page comes as it was left.
addEventListener("pageshow", () => document.querySelectorAll("form[aria-busy]").forEach((form) => setBusy(form, false)));
