package runs

// Canonical is canonical.
var Canonical = canonical
