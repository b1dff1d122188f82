// Package reviews lets owners keep or revoke what was given: grants, secrets,
// owners, connections and trust rules.
//
// It promises:
//
//   - A campaign asks about what is new, unused, wide or risky, unless all is asked
//     for; what is unused is marked for revoking, and keeping anything needs a
//     reason. A small review (a question) is asked when something changes.
//   - Nobody reviews what they gave, asked for or changed themselves, whichever
//     group they are in and whoever hands it to them; one person decides at one
//     level only. Nothing that was decided is decided again.
//   - A decision and what becomes of it are apart. A revoke is executed, survives a
//     crash at any moment, and is then tried: the agent's call is made through the
//     line, and one that is let through is a critical finding. Uses between the
//     decision and its execution are counted and shown.
//   - Silence has the end that was chosen at the start. What nobody could have
//     answered, because every reviewer left, is not silence: it escalates and stays
//     open.
//   - Every step is an event, and a review can be exported with the proofs of them.
//
// It reads rooms that do not know each other and changes them by their own verbs;
// only server may import it.
package reviews
