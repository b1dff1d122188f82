// Package command rotates secrets by a program of the operator's. It is told
// what to do in one JSON object on its standard input, and answers with one on
// its standard output; no secret is ever among its arguments or in its
// environment, where others on the machine could read it.
//
// The server may import command.
package command
