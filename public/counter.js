// Says beside a field with `data-limit` how many characters are left once few are, and how many are too many. It counts
// as the server does, which decides: by code points, and the end of a line is one.

const count = (text) => [...text].length;

const characters = (number, more) => `${number.toLocaleString("en")} ${number === 1 ? "character" : "characters"} ${more}.`;

// A form so large would be refused unread, and its page could not come back with what was typed.
const isTooLargeToSend = (text) => new TextEncoder().encode(text).length > 60_000;

function addCounter(field) {
  const limit = Number(field.dataset.limit);
  const line = document.createElement("p");
  line.id = `${field.id}-counter`;
  line.setAttribute("aria-live", "polite");
  field.after(line);
  const others = field.getAttribute("aria-describedby");

  const show = () => {
    const left = limit - count(field.value);
    line.className = left < 0 ? "mistake" : "hint";
    if (left < 0) line.textContent = characters(-left, "too many");
    else line.textContent = left <= limit / 10 ? characters(left, "left") : "";
    const described = [others, line.textContent && line.id].filter(Boolean).join(" ");
    if (described) field.setAttribute("aria-describedby", described);
    else field.removeAttribute("aria-describedby");
  };
  const holdBack = () => {
    const more = count(field.value) - limit;
    field.setCustomValidity(more > 0 && isTooLargeToSend(field.value) ? characters(more, "too many") : "");
  };
  // A screen reader reads the line when typing pauses, not at every key.
  let pause;
  field.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(show, 300);
    holdBack();
  });
  // Browsers put back what was typed after this script has run.
  addEventListener("pageshow", () => {
    show();
    holdBack();
  });
}

document.querySelectorAll("[data-limit]").forEach(addCounter);
