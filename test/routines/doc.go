// Package routines counts goroutines by the code that they run, so that a test
// can tell that a room leaves none behind. Tests alone import it.
package routines
