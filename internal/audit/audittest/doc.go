// Package audittest helps tests that open a log. Only tests may import it.
package audittest
