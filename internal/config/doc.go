// Package config is the one description of how a server is set up: one struct
// of small structs, read from a strict YAML file and the environment, valid
// when empty. Any package may import it; it imports nothing of ours.
package config
