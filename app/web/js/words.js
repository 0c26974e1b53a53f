// What codes mean for the person in front of the screen.

export const STAGES = [
  ["read", "Read the scan"],
  ["quality", "Check that it is an abdominal CT"],
  ["liver", "Find the liver"],
  ["lesion", "Find lesions in it"],
  ["crf", "Refine the edges"],
  ["measure", "Measure"],
  ["write", "Save the results"],
];

export const STATUS = {
  queued: "waiting", running: "running", succeeded: "done", failed: "failed", canceled: "canceled", expired: "erased",
};

const ONE_SERIES = "Put one series alone into the zip, all of its slices of one acquisition.";

const ADVICE = {
  unsupported_format: "Send the CT as NIfTI (.nii, .nii.gz), or one DICOM series as a .zip.",
  empty_file: "Choose the file again: this one has not been written yet, or was lost on its way.",
  corrupt_file: "Copy or export the file again and compare its size with the original.",
  too_large: "Crop the scan to the abdomen, or ask the administrator to raise the limit.",
  invalid_geometry: "Export the scan again as one straight axial volume with its orientation.",
  invalid_voxels: "Export the scan in Hounsfield units, with the rescale slope and intercept applied.",
  several_series: "Put one series alone into the zip: the axial CT of the abdomen.",
  unknown_series: "Name a series that is in the zip, or put one series alone into it.",
  no_dicom: "The zip must hold the DICOM files of one CT series.",
  encrypted_zip: "Pack the series again without a password.",
  unsupported_zip: "Pack the series again as a plain zip.",
  only_localizer: "The zip holds only an overview picture. Send the axial slices.",
  missing_slices: "Export the series again; slices are missing in between.",
  uneven_gaps: "Export the series again; slices are missing in between.",
  doubled_slices: "Export one series alone: some slices are there twice.",
  not_hounsfield: "Send the original CT series; derived pictures have no Hounsfield units.",
  sheared_grid: "Export the scan again as one straight axial volume, without gantry tilt.",
  shifted_slices: "Export the scan again as one straight axial volume: its slices do not lie straight above each other.",
  mixed_orientations: ONE_SERIES,
  mixed_spacing: ONE_SERIES,
  mixed_sizes: ONE_SERIES,
  mixed_frames_of_reference: ONE_SERIES,
  split_series: ONE_SERIES,
  invalid_orientation: "Export the scan again as one straight axial volume.",
  too_few_slices: "Send the whole series: one slice is no volume.",
  missing_tags: "Export the series again from the archive, with position, orientation, spacing and rescale slope in every slice.",
  colour_image: "Send the original CT series, not screenshots or pictures in colour.",
  unsupported_transfer_syntax: "Export the series uncompressed, or with lossless compression.",
  not_ct: "Send a CT in Hounsfield units. MR, photographs and images windowed to grey levels cannot be used.",
  too_few_pixels: "Send the axial slices at full size.",
  constant_image: "Send the CT itself; this file holds the same value everywhere.",
  no_liver: "Make sure that the scan shows the upper abdomen and that left, right, top and bottom are stored rightly.",
  invalid_reference: "The reference must be labels 0 (background), 1 (liver), 2 (lesion) on the very grid of the CT.",
  invalid_prior: "Compare with a finished scan of this service, or with labels 0, 1, 2 of an earlier scan.",
  prior_not_found: "Choose the earlier scan in the list of this service, or send its labels.",
  prior_not_finished: "Wait until the earlier scan is done, then send this one again.",
  prior_without_results: "The earlier scan has no results. Send it again first.",
  prior_gone: "The earlier scan is erased. Send its labels instead, if you kept them.",
  overloaded: "The queue is full. Try again in a while.",
  storage_full: "The disk of the service is full. Erase old scans or ask the administrator.",
  not_ready: "The networks are being loaded. Try again in a moment.",
  broken_model: "The networks of this service cannot be used. Its administrator finds the reason in the log.",
  not_found: "The address may be mistyped, or it belongs to another service.",
  gone: "Send the scan again if you still need the result.",
  too_many_attempts: "The scan took its worker down several times. It may be too large for this machine's memory.",
  internal_error: "The service made a mistake, not you. Its administrator finds the reason in the log.",
  storage_unreachable: "The store of scans and results does not answer. Try again in a while, or tell the administrator.",
  pacs_failed: "The DICOMweb server did not answer rightly. Try again in a while, or tell its administrator.",
  malformed_request: "Something on the way changed or cut off what was sent. Send it again.",
  invalid_request: "Reload the page and send the scan again.",
  invalid_input: "Export the scan again, as NIfTI or as one DICOM series in a zip.",
  dicomweb_not_configured: "Send the scan itself.",
  method_not_allowed: "Reload the page.",
  conflict: "Reload the page: the scan is in another state by now.",
  network: "Check that the service runs and that you are connected to it.",
  viewer: "Everything else of the result is here; its files can be opened in any other viewer.",
  aborted: "",
};

/** What to do about an error with this code. */
export const advice = (code) => ADVICE[code] ?? "If it happens again, tell the administrator the code below.";

export const FINDINGS = {
  few_slices: "Few slices", little_coverage: "Short scan", field_of_view: "Unusual field of view",
  not_axial: "Slices are not axial", oblique: "Tilted slices", air_hu: "Air has the wrong value",
  fat_hu: "Fat has the wrong value", fat_clipped: "Fat is cut off", bright_rim: "Bright rim, unlike a CT", noisy: "Noisy",
  axes_swapped: "Axes may be swapped", quarter_turn: "Slices may be turned", front_back_swapped: "Front and back may be swapped",
  upside_down: "Head and foot may be swapped", blank_slices: "Blank slices", repeated_slices: "Repeated slices",
  slice_gap: "Slices may be missing", slices_disordered: "Slices out of order", liver_on_left: "Left and right may be swapped",
  liver_cut_off: "Liver cut off", liver_small: "Small liver", liver_large: "Large liver", liver_hu: "Unusual liver density",
  liver_ragged: "Ragged liver", liver_in_pieces: "Liver in pieces", lesion_burden_high: "Very high lesion burden",
  metal: "Metal", phase_native: "No contrast", phase_arterial: "Arterial phase",
  livers_do_not_fit: "Cannot be compared with the prior", prior_without_liver: "Cannot be compared with the prior",
};

/** A title for a finding, made of its code if there is no better one. */
export const findingTitle = (code) => FINDINGS[code] ?? (code.charAt(0).toUpperCase() + code.slice(1)).replaceAll("_", " ");

export const VERDICT = {
  accept: "Nothing conspicuous", warn: "Look closely: something about this scan is unusual", refuse: "Not usable",
};
