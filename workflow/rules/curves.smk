rule curves:
    input:
        plan.curve_models,
    output:
        png=report(
            "results/{name}/figures/{figure}.png",
            caption="../report/curves.rst",
            category="Figures",
        ),
        others=expand(
            "results/{{name}}/figures/{{figure}}.{suffix}",
            suffix=["pdf", "csv", "manifest.json"],
        ),
    log:
        "results/{name}/logs/curves/{figure}.log",
    benchmark:
        "results/{name}/benchmarks/curves/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(plan.figures("curves")),
    conda:
        "../../envs/cast.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=plan.settings("curves"),
        logs=plan.training_logs,
    shell:
        "cast curves --settings {params.settings:q} --out {output.png:q} {params.logs:q} 2>&1 | tee {log:q}"
