rule efficiency:
    input:
        data="results/{name}/data/target",
        paper_results=plan.paper_results,
    output:
        png=report(
            "results/{name}/figures/{figure}.png",
            caption="../report/efficiency.rst",
            category="Figures",
        ),
        others=expand(
            "results/{{name}}/figures/{{figure}}.{suffix}",
            suffix=["pdf", "csv", "md", "manifest.json"],
        ),
    log:
        "results/{name}/logs/efficiency/{figure}.log",
    benchmark:
        "results/{name}/benchmarks/efficiency/{figure}.tsv"
    wildcard_constraints:
        figure=one_of(plan.figures("efficiency")),
    conda:
        "../../envs/cast.yaml"
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
        gpu=RESOURCES.gpu,
    params:
        settings=plan.settings("efficiency"),
    shell:
        "cast efficiency --settings {params.settings:q} --data {input.data:q}/train.json --out {output.png:q}"
        " --threads {threads} 2>&1 | tee {log:q}"
