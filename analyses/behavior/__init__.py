"""Does fine-tuning on a task show kernel behavior? Real runs beside what their kernel predicts."""
