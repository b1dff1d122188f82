package detection

// MonthReport runs the simulated month with so many calls and writes its table.
var MonthReport = monthReport
