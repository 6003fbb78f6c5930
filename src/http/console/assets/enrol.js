// The code of an enrolment link stands behind its `#`: it goes into the field, and out of the address and the history.
const code = decodeURIComponent(location.hash.slice(1));
if (/^[0-9A-Za-z -]{20,64}$/.test(code)) {
  document.getElementById("code").value = code;
  document.getElementById("passphrase").focus();
}
history.replaceState(null, "", location.pathname);
