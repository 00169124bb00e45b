"""The reward for reinforcement learning, of a good summary, a copy, a reversal and no words.

With TRL it is `GRPOTrainer(reward_funcs=reward, ...)`: scripts/train_with_reward.py trains with it.

python examples/reward.py
"""

from serve_app.training.rewards.reward import local_scorer, loss_reward

ORIGINAL = (
    "We included 12 randomised trials with 2,400 adults. Compared with placebo, low-dose aspirin "
    "reduced the incidence of myocardial infarction (risk ratio 0.68, 95% CI 0.55 to 0.84). Major "
    "bleeding was more frequent with aspirin. There was no difference in all-cause mortality."
)
COMPLETIONS = {
    "good": "Low-dose aspirin prevented some heart attacks in these 12 studies with 2,400 adults. "
    "Major bleeding was more common with aspirin. As many people died with it as without it.",
    "copied": ORIGINAL,
    "reversed": "Low-dose aspirin increased the number of heart attacks in these 12 studies with "
    "2,400 adults. Major bleeding was less common with aspirin.",
    "no words": "...",
}


def main() -> None:
    reward = loss_reward(local_scorer(), penalty=0.2)
    count = len(COMPLETIONS)
    values = reward(
        prompts=[""] * count,
        completions=list(COMPLETIONS.values()),
        original=[ORIGINAL] * count,
    )
    for name, value in zip(COMPLETIONS, values, strict=True):
        print(f"{name:9} {value:.3f}")


if __name__ == "__main__":
    main()
