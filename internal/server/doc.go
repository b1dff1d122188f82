// Package server is the composition root: it opens the store, builds each
// room, mounts the doors, runs the background work and stops everything in the
// reverse order. It holds no rule of its own. Only cmd/countersign imports it.
package server
