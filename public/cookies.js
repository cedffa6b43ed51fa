// Shows a message if the browser does not accept cookies. Some claim that they do, so one is set as a test and deleted at
// once.

function keepsCookies() {
  document.cookie = "try=kept; SameSite=Strict";
  const found = document.cookie.includes("try=kept");
  document.cookie = "try=; Max-Age=0; SameSite=Strict";
  return found;
}

const kept = navigator.cookieEnabled && keepsCookies();
for (const line of document.querySelectorAll(".no-cookies")) line.hidden = kept;
