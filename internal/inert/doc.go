// Package inert shows text from agents, tools and models so that no character
// of it can change how anything around it is shown: on a terminal, in a chat
// message, on a page. It is pure and imports nothing of ours; whoever shows
// foreign text may import it.
package inert
