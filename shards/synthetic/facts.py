"""The numbers behind a synthetic release: findings, how often they occur alone and together, views, splits."""

# Per finding the share of images that have it (Yamagishi & Hanaoka 2023, table of label frequencies, column "all"), and
# its loadings. Findings occur together because they load on a shared cause: congestion, infection, air leak, ageing,
# tumour. The last number is how much more of it bedside (portable AP) studies show, in standard deviations.
_FINDINGS = {
    "Support Devices": (0.337, 0.25, 0.10, 0.25, 0.0, 0.0, 1.1),
    "Lung Opacity": (0.302, 0.20, 0.70, 0.0, 0.0, 0.15, 0.2),
    "Cardiomegaly": (0.290, 0.65, 0.0, 0.0, 0.25, 0.0, 0.3),
    "Pleural Effusion": (0.261, 0.70, 0.15, 0.0, 0.0, 0.15, 0.4),
    "Atelectasis": (0.255, 0.40, 0.10, 0.10, 0.0, 0.0, 0.4),
    "Pneumonia": (0.182, 0.10, 0.80, 0.0, 0.0, 0.0, 0.1),
    "No Finding": (0.158, 0.0, 0.0, 0.0, 0.0, 0.0, -0.7),
    "Edema": (0.146, 0.80, 0.0, 0.0, 0.0, 0.0, 0.6),
    "Enlarged Cardiomediastinum": (0.114, 0.40, 0.0, 0.0, 0.30, 0.0, 0.3),
    "Consolidation": (0.061, 0.15, 0.75, 0.0, 0.0, 0.0, 0.2),
    "Pneumothorax": (0.057, 0.0, 0.0, 0.75, 0.0, 0.0, 0.2),
    "Fracture": (0.045, 0.0, 0.0, 0.25, 0.35, 0.0, 0.0),
    "Infiltration": (0.039, 0.10, 0.60, 0.0, 0.0, 0.0, 0.2),
    "Nodule": (0.029, 0.0, 0.0, 0.0, 0.15, 0.70, -0.3),
    "Mass": (0.021, 0.0, 0.0, 0.0, 0.0, 0.75, -0.2),
    "Calcification of the Aorta": (0.016, 0.10, 0.0, 0.0, 0.70, 0.0, 0.0),
    "Emphysema": (0.016, 0.0, 0.10, 0.15, 0.45, 0.15, -0.2),
    "Hernia": (0.015, 0.0, 0.0, 0.0, 0.40, 0.0, -0.3),
    "Pleural Thickening": (0.013, 0.10, 0.10, 0.0, 0.30, 0.20, -0.3),
    "Tortuous Aorta": (0.013, 0.10, 0.0, 0.0, 0.70, 0.0, -0.1),
    "Lung Lesion": (0.010, 0.0, 0.0, 0.0, 0.0, 0.70, -0.2),
    "Subcutaneous Emphysema": (0.009, 0.0, 0.0, 0.85, 0.0, 0.0, 0.4),
    "Fibrosis": (0.004, 0.0, 0.15, 0.0, 0.35, 0.10, -0.3),
    "Pleural Other": (0.003, 0.10, 0.0, 0.0, 0.30, 0.20, -0.2),
    "Pneumomediastinum": (0.003, 0.0, 0.0, 0.80, 0.0, 0.0, 0.3),
    "Pneumoperitoneum": (0.002, 0.0, 0.0, 0.35, 0.0, 0.0, 0.2),
}
FREQUENCIES = {finding: share for finding, (share, *_) in _FINDINGS.items()}
LOADINGS = {finding: loadings for finding, (_, *loadings) in _FINDINGS.items()}
FINDINGS_2023 = tuple(sorted(FREQUENCIES))

# Findings of CXR-LT 2024 that are not in 2023's table. They are drawn at random at small, plausible
# frequencies and show nothing in the pictures: a classifier cannot learn them, and its average precision on
# them is their frequency.
UNSEEN_2024 = {
    "Adenopathy": 0.013, "Azygos Lobe": 0.0008, "Clavicle Fracture": 0.0007, "Fissure": 0.011, "Granuloma": 0.011,
    "Hydropneumothorax": 0.0025, "Infarction": 0.003, "Kyphosis": 0.0025, "Lobar Atelectasis": 0.0005,
    "Pulmonary Embolism": 0.006, "Pulmonary Hypertension": 0.004, "Rib Fracture": 0.034,
    "Round(ed) Atelectasis": 0.0007, "Tuberculosis": 0.008,
}  # fmt: skip
UNSEEN_TASK3 = {"Bulla": 0.003, "Cardiomyopathy": 0.004, "Hilum": 0.008, "Osteopenia": 0.005, "Scoliosis": 0.015}
NORMAL = "Normal"  # CXR-LT 2024's name of No Finding
FINDINGS_2024 = tuple(sorted({*FINDINGS_2023, NORMAL, *UNSEEN_2024} - {"No Finding"}))
CHEXPERT = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip

CAUSES = 5
OF_SUBJECT = 0.6  # share of each cause's variance that a subject's studies have in common
DEVICES_KEPT = 0.25  # a study without a finding may show devices, less often than others

# What a study consists of, and how often. With LEFT and BLANK below, the images reach the counts of the real
# release over its 377,110 images: AP 147,173; PA 96,161; LATERAL 82,853; LL 35,133; blank 15,769; 1.655
# images per study.
PROTOCOLS = (
    (("AP",), 0.3846),
    (("AP", "AP"), 0.095),
    (("AP", "LATERAL"), 0.10),
    (("PA", "LATERAL"), 0.3404),
    (("PA", "LATERAL", "LATERAL"), 0.03),
    (("PA",), 0.03),
    (("PA", "PA", "LATERAL", "LATERAL"), 0.02),
)
LEFT = 35_133 / (82_853 + 35_133)  # share of the lateral images that are called LL
BLANK = 15_769 / 377_110  # share of the studies whose images have no ViewPosition
RARE = 22 / 377_110  # share of the images with one of the positions below
RARE_FRONTAL = {"PA LLD": 4, "LAO": 3, "RAO": 3, "AP AXIAL": 2, "AP LLD": 2, "AP RLD": 2, "PA RLD": 1, "LPO": 1}
RARE_LATERAL = {"XTABLE LATERAL": 2, "SWIMMERS": 1}
VIEW_CODES = {
    "AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral", "LL": "left lateral",
    "XTABLE LATERAL": "lateral",
}  # fmt: skip

# Shares of the subjects in (train, validate or development, test).
SPLITS = {"official": (368_960, 2_991, 5_159), "2023": (70, 10, 20), "2024": (70, 10, 20)}
