// The code of an enrolment link stands behind its `#`: it goes into the field, and out of the address and the history. It is
// kept for this tab, since the page that asks again after a mistake does not have it.
const kept = "countersign-enrol";
const given = decodeURIComponent(location.hash.slice(1)) || sessionStorage.getItem(kept) || "";
if (/^[0-9A-Za-z -]{20,64}$/.test(given)) {
  sessionStorage.setItem(kept, given);
  document.getElementById("code").value = given;
  document.getElementById("passphrase").focus();
}
history.replaceState(null, "", location.pathname);
