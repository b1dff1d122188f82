// Package channels tells people about held calls where they are: by a signed
// webhook, by Slack messages with buttons, and by whatever shoutrrr speaks
// (e-mail, Teams, ntfy, …) as a one-way notice with a link to sign in.
//
// It promises:
//
//   - what is to be told is stored in the change that it is about (Tell), and
//     delivered afterwards by one replica at a time, again and again until the
//     receiver has it or it is dead, which is a finding; a channel that is down
//     holds up no decision and no other channel;
//   - each attempt is an intent and an outcome in the log, and the channel's
//     secret is given for that receipt only;
//   - what is told is redacted and inert, and by default says nothing of a call's
//     contents except to Slack, where people decide by them;
//   - a decision from Slack counts only with Slack's signature, once, within five
//     minutes, by a person who linked their own account, and goes through the same
//     door as any other: approvals.Decide.
//
// The server and manifest may import channels.
package channels
