"""JPEG, PNG and DICOM files as the gray values that they hold, or the reason why not; one file per format."""
