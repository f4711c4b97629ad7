rule bias:
    input:
        split=plan.first_split,
        before=plan.labels_before,
        after=plan.labels_after,
    output:
        png=report(
            "results/{name}/figures/{figure}.png",
            caption="../report/bias.rst",
            category="Figures",
        ),
        others=expand(
            "results/{{name}}/figures/{{figure}}{end}",
            end=[".pdf", ".csv", "_overlays.png", ".manifest.json"],
        ),
    log:
        "results/{name}/logs/bias/{figure}.log",
    benchmark:
        "results/{name}/benchmarks/bias/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(plan.figures("bias")),
    conda:
        "../../envs/cast.yaml"
    threads: 1
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
    params:
        settings=plan.settings("bias"),
    shell:
        "cast bias --settings {params.settings:q} --truth {input.split:q}/hidden.json"
        " --before {input.before:q}/pseudo_labels.json --after {input.after:q}/candidates.json"
        " --out {output.png:q} 2>&1 | tee {log:q}"
