// Shows what a browser has to be told that keeps no cookies. Some say that they keep them and do not, so one is tried,
// and deleted at once.

function keepsCookies() {
  document.cookie = "try=kept; SameSite=Strict";
  const found = document.cookie.includes("try=kept");
  document.cookie = "try=; Max-Age=0; SameSite=Strict";
  return found;
}

const kept = navigator.cookieEnabled && keepsCookies();
for (const line of document.querySelectorAll(".no-cookies")) line.hidden = kept;
