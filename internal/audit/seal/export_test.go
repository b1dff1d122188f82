package seal

// PickCosignature is pickCosignature, for fuzzing.
var PickCosignature = pickCosignature
