"""Does fine-tuning on a task show kernel behaviour? Real runs beside what their kernel predicts."""
