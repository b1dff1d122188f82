// Package leaktest looks for secrets where none may be: database files,
// write-ahead logs, captured output, the arguments of processes. Only tests may
// import it. It shares no code with inspection, whose work it checks.
package leaktest
