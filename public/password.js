// Improves password fields where there are scripts: a button shows what was typed, and there is advice on a new
// password while it is typed. The server decides; it knows far more passwords that are easy to guess.

const minimum = (input) => Math.max(input.minLength, 1);

function advice(text, least) {
  const characters = [...text.normalize("NFC")];
  const missing = least - characters.length;
  if (missing > 0) return missing === 1 ? "1 more character needed." : `${missing} more characters needed.`;
  if (new Set(characters).size < 5) return "Repeated characters are easy to guess.";
  if (characters.length < 12) return "Long enough. Adding another word makes it much stronger.";
  return "Good length.";
}

function addReveal(input) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "reveal";
  const set = (shown) => {
    input.type = shown ? "text" : "password";
    button.textContent = shown ? "Hide" : "Show";
    button.setAttribute("aria-label", `${button.textContent}: ${input.labels[0].textContent}`);
  };
  set(false);
  button.addEventListener("click", () => set(input.type === "password"));
  // Browsers only offer to save what is in a password field.
  input.form.addEventListener("submit", () => set(false));
  // Before the field, so that Tab leads from a password to the next field.
  input.before(button);
}

// In place of the hint; beside a mistake there is none.
function addAdvice(input) {
  const field = input.closest(".field");
  const line = field.querySelector(".hint") ?? field.appendChild(document.createElement("p"));
  const hint = line.textContent;
  line.className = "hint advice";
  line.setAttribute("role", "status");
  input.addEventListener("input", () => {
    line.textContent = input.value ? advice(input.value, minimum(input)) : hint;
  });
}

function compare(password, again) {
  const judge = () => again.setCustomValidity(again.value && again.value !== password.value ? "The two passwords differ." : "");
  password.addEventListener("input", judge);
  again.addEventListener("input", judge);
}

document.querySelectorAll('input[type="password"]').forEach(addReveal);
for (const password of document.querySelectorAll('input[name="password"][autocomplete="new-password"]')) {
  addAdvice(password);
  const again = password.form.elements.confirm_password;
  if (again) compare(password, again);
}
