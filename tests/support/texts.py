"""Medical texts written for the tests; any likeness to a real review is accidental."""

from __future__ import annotations

ORIGINALS = [
    "We included 14 randomised controlled trials with 3,120 adults who had hypertension. Compared "
    "with placebo, low-dose thiazide diuretics reduced the incidence of stroke (risk ratio 0.68, "
    "95% CI 0.55 to 0.84) and of coronary events. All-cause mortality did not differ between the "
    "groups. Hypokalaemia was more frequent with treatment, and 6% of participants discontinued "
    "because of adverse events. The certainty of the evidence was moderate.",
    "Six studies (n = 482) assessed supervised exercise for chronic low back pain. Pain intensity "
    "after three months was lower with exercise than with usual care (mean difference -9.4 on a "
    "100-point scale). Disability improved slightly. No serious adverse events were reported. Most "
    "studies had a high risk of bias because participants could not be blinded.",
    "Antibiotic prophylaxis before caesarean section was evaluated in 21 trials. Endometritis "
    "occurred in 4.1% of women given antibiotics and in 10.3% of controls. Wound infection was "
    "also less common. Neonatal outcomes were poorly reported, and bacterial resistance was not "
    "studied.",
    "Zinc lozenges were compared with placebo in 9 trials of the common cold in children. The "
    "duration of symptoms was shorter by about one day, but results were inconsistent. Nausea and "
    "bad taste were the most frequent complaints.",
]

GENERATED = [
    "Water tablets in low doses lower the chance of a stroke and of heart trouble in adults with "
    "high blood pressure. They did not change how many people died. Some people had low potassium, "
    "and 6 in 100 stopped the medicine because of unwanted effects.",
    "Exercise with a trainer eases long-lasting back pain a little after three months. No serious "
    "harms were seen. The studies had weaknesses.",
    "Giving antibiotics before a caesarean birth prevents infections of the womb and of the wound. "
    "We do not know enough about effects on the baby.",
    "Zinc may make a child's cold about one day shorter. It can cause nausea and tastes bad.",
]

HUMAN = [
    "Low-dose water tablets help adults with high blood pressure avoid strokes.",
    "Supervised exercise may reduce back pain slightly.",
    "Antibiotics before a caesarean section reduce infections in mothers.",
    "Zinc lozenges may shorten colds in children, but we are not certain.",
]

# Sentences that the edits of serve_app.training change: numbers, names, negations, comparisons.
PASSAGE = [
    "In 2009, Helen Marsh told the London Council that 45 patients (30 women) were treated.",
    "Aspirin was more effective than placebo for headache in adults.",
    "Nausea was not reported by any of the 120 children who received warfarin tablets.",
    "Peter Vance led the team at Oxford University, which increased funding for nurses.",
]
