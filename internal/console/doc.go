// Package console is the product in a browser: pages rendered on the server,
// with a little plain JavaScript for what is live.
//
// It promises to do nothing that the API cannot: every page and every action
// calls /api/v1 in the same process, with the credential of the person who is
// signed in, so that roles, events and errors are the API's. What agents, tools
// and models wrote is shown inert: templates print nothing that did not go
// through text (see render.go). Pages run under a content security policy
// without inline script or style; every action needs a token of the session
// and the page's own origin.
//
// How to add a page is in CONTRIBUTING.md. The server may import console; it
// imports client, inert and rest.
package console
