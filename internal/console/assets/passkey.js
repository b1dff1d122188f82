// Passkeys: a form that needs one asks the server what is to be signed, has the
// browser sign it, and sends the answer with the form. The server decides.
"use strict";
(() => {
  const bytes = (s) => Uint8Array.from(atob(s.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const text = (b) => btoa(String.fromCharCode(...new Uint8Array(b))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const named = (ids) => ids.map((id) => ({ type: "public-key", id: bytes(id) }));

  // What the browser answered, as PublicKeyCredential.toJSON has it.
  function plain(c) {
    const r = { clientDataJSON: text(c.response.clientDataJSON) };
    for (const k of ["attestationObject", "authenticatorData", "signature", "userHandle"]) if (c.response[k]) r[k] = text(c.response[k]);
    return JSON.stringify({ id: c.id, rawId: text(c.rawId), type: c.type, clientExtensionResults: {}, response: r });
  }

  const make = (q) => navigator.credentials.create({ publicKey: {
    challenge: bytes(q.challenge), rp: { id: q.rp_id, name: "Countersign" }, user: { id: bytes(q.user_id), name: q.user, displayName: q.user },
    pubKeyCredParams: q.algorithms.map((alg) => ({ type: "public-key", alg })), excludeCredentials: named(q.exclude), attestation: "none",
    authenticatorSelection: { userVerification: "required", residentKey: "preferred" }, timeout: 110000 } });
  const sign = (q) => navigator.credentials.get({ publicKey: {
    challenge: bytes(q.challenge), rpId: q.rp_id, allowCredentials: named(q.credentials), userVerification: "required", timeout: 110000 } });

  const words = {
    NotAllowedError: "No passkey signed: it was cancelled, it took too long, or this device has none of yours. Nothing was decided; try again.",
    InvalidStateError: "This device's passkey is registered already.",
    SecurityError: "The browser has no passkeys for this page's address.",
    NotSupportedError: "This device can make no passkey that verifies you.",
  };

  async function ask(form) {
    if (!window.PublicKeyCredential) throw new Error("This browser has no passkeys, or this page is reached without TLS. Open it in another browser, by https or on localhost.");
    const r = await fetch(form.dataset.ask, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    const q = await r.json().catch(() => ({ problem: "The server gave no answer that can be read. Open the page again." }));
    if (!r.ok || q.problem) throw new Error(q.problem ?? "The server refused.");
    if (q.origin !== location.origin) throw new Error(`Passkeys work at ${q.origin} alone. Open the console there.`);
    return q;
  }

  function tell(form, what) {
    let p = form.querySelector(".passkey-problem");
    if (!p) {
      p = document.createElement("p");
      p.className = "said bad passkey-problem";
      p.setAttribute("role", "alert");
      form.append(p);
    }
    p.textContent = what;
  }

  function add(form, name, value) {
    const i = document.createElement("input");
    i.type = "hidden";
    i.name = name;
    i.value = value;
    form.append(i);
  }

  document.addEventListener("submit", async (e) => {
    const form = e.target, button = e.submitter;
    if (!form.dataset.ask || (button?.name === "verdict" && button.value !== "approve")) return;
    e.preventDefault();
    if (button) button.disabled = true;
    try {
      const q = await ask(form);
      add(form, "passkey", plain(await (form.dataset.passkey === "make" ? make(q) : sign(q))));
      if (button?.name) add(form, button.name, button.value);
      form.submit();
    } catch (err) {
      tell(form, words[err.name] ?? err.message);
      if (button) button.disabled = false;
    }
  });
})();
